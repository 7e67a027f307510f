"""Direct and depthwise convolutions of bytes: every way to multiply gives exactly the sums of ONNX's ConvInteger."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tvm
from onnx import helper, numpy_helper
from tvm import te, tirx

from graphopt.hardware.target import load
from graphopt.targets.tvm.codegen.build import tvm_target
from graphopt.targets.tvm.kernels.common.conv_workload import ConvSpec, ConvWorkload
from graphopt.targets.tvm.kernels.common.dot import INTEGER, LARGEST_SMALL, bytes_for
from graphopt.targets.tvm.kernels.depthwise.family import Depthwise
from graphopt.targets.tvm.kernels.depthwise.plan import plan_depthwise
from graphopt.targets.tvm.kernels.direct import compute
from graphopt.targets.tvm.kernels.direct.family import Direct
from graphopt.targets.tvm.kernels.direct.plan import candidates, plan_direct
from graphopt.targets.tvm.kernels.family import Dtypes
from graphopt.targets.tvm.machine import Machine, machine_of
from graphopt.targets.tvm.tir_passes.pipeline import PIPELINE
from tests.targets.schedule.blocks import blocked, plain
from tests.targets.schedule.support import MACHINE, execute, placeholder, scheduled

DIRECT, DEPTHWISE = Direct(), Depthwise()
X86 = {"sse2", "ssse3", "avx2", "avx512bw"}
WAYS = {"vpdpbusd": X86 | {"vnni"}, "vpmaddwd": X86, "vpmaddubsw": X86, "mull": set()}


def machine_with(way: str, lanes: int) -> Machine:
    """The host, as wide as `lanes` floats, with the instructions of one way to multiply; skips where it has none."""
    wanted = WAYS[way] & {"vnni", {16: "avx512bw", 8: "avx2", 4: "sse2"}[lanes]}
    if not wanted <= MACHINE.instructions or lanes * 4 > MACHINE.vector_bytes:
        pytest.skip(f"this processor has no {way} of {lanes} lanes")
    return dataclasses.replace(MACHINE, vector_bytes=lanes * 4, instructions=frozenset(WAYS[way]))


def types_of(way: str, machine: Machine) -> Dtypes:
    """The types that a machine multiplies in this way; weights are small for one of them."""
    return bytes_for(machine, way == "vpmaddubsw")


def conv_integer(data: np.ndarray, weight: np.ndarray, spec: ConvSpec) -> np.ndarray:
    """ONNX Runtime's ConvInteger."""
    attributes = {"strides": spec.strides, "dilations": spec.dilations, "pads": [*spec.pads_begin, *spec.pads_end]}
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"], group=spec.groups, **attributes)
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, data.shape)]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, None)]
    graph = helper.make_graph([node], "conv", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": data})[0]


def check(workload: ConvWorkload, machine: Machine, plan: object, way: str, extreme: bool = False) -> None:
    """Compare the sums, and the bytes of a residual sum of them; lanes after the last channel hold anything."""
    spec, random = workload.spec, np.random.default_rng(3)
    shape = (workload.batch or 1, spec.in_channels, *workload.space)
    data = np.full(shape, 255, np.uint8) if extreme else random.integers(0, 256, shape).astype(np.uint8)
    weights = (spec.out_channels, spec.in_channels // spec.groups, *spec.kernel)
    step, family = workload.step, DEPTHWISE if workload.is_depthwise else DIRECT
    types = workload.dtypes
    most = LARGEST_SMALL if types.small_weight else 128
    weight = np.full(weights, -most, np.int8) if extreme else random.integers(-most, most, weights).astype(np.int8)
    packed = family.pack(weight.astype(types.weight), workload, plan)
    assert packed.shape == family.packed_shape(workload, plan)
    image = blocked(data.astype(types.data), step, 0)
    rest = -spec.in_channels % step
    if rest:
        image[:, -1, ..., step - rest :] = 99
    x, w = placeholder(image.shape, types.data, "x"), placeholder(packed.shape, types.weight, "w")
    out = family.compute(x, w, workload, plan)
    shape = tuple(int(size) for size in out.shape)
    bias = random.integers(-9999, 9999, (shape[1], shape[-1])).astype(np.int32)
    residual = random.integers(0, 256, shape).astype(np.uint8)
    b, r = placeholder(bias.shape, "int32", "b"), placeholder(shape, "uint8", "r")

    def summed(*index: object) -> tirx.Expr:
        total = (out(*index) + b(index[1], index[-1])).astype("float32")
        first = quantized(total * number(2**-10), 128, "uint8").astype("float32") - number(128)
        return quantized(first * number(0.5) + (r(*index).astype("float32") - number(3)) * number(0.25), 77, "uint8")

    sums = conv_integer(data, weight, spec)
    total = sums + bias.reshape(-1)[: spec.out_channels].reshape(1, -1, *[1] * len(workload.space))
    rounded = np.clip(np.rint(total * 2.0**-10), -128, 127)
    rounded = np.clip(np.rint(rounded / 2 + (plain(residual, spec.out_channels) - 3.0) / 4) + 77, 0, 255)
    for tensors, arrays, dtype, numbers in (
        ([x, w, out], [image, packed], "int32", sums),
        ([x, w, b, r, te.compute(shape, summed, name="q")], [image, packed, bias, residual], "uint8", rounded),
    ):
        func = scheduled(tensors, machine)
        text = str(func.attrs["graphopt.schedule"])
        assert text.startswith("depthwise" if workload.is_depthwise else "direct convolution")
        assert way in text
        (found,) = execute(func, arrays, [np.zeros(shape, dtype)])
        np.testing.assert_array_equal(plain(found, spec.out_channels), numbers)


def number(value: float) -> tirx.Expr:
    return tirx.const(value, "float32")


def quantized(value: tirx.Expr, zero: int, dtype: str) -> tirx.Expr:
    """QuantizeLinear with a scale of 1."""
    limits = np.iinfo(dtype)
    whole = tirx.nearbyint(value) + number(zero)
    return tirx.max(tirx.min(whole, number(limits.max)), number(limits.min)).astype("int32").astype(dtype)


def scaled(workload: ConvWorkload, plan: object, dtype: str) -> list[te.Tensor]:
    """A convolution whose result is multiplied by a factor for each lane and quantized."""
    x, f = placeholder(workload.data_shape, "uint8", "x"), placeholder((workload.lanes,), "float32", "f")
    w = placeholder(DIRECT.packed_shape(workload, plan), "int8", "w")
    out = DIRECT.compute(x, w, workload, plan)

    def element(*index: object) -> tirx.Expr:
        return quantized(out(*index).astype("float32") * f(index[-1]), 5, dtype)

    return [x, w, f, te.compute(out.shape, element, name="q")]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("lanes", [16, 8, 4])
def test_bytes_saturate(lanes: int, dtype: str) -> None:
    """Limits, numbers far beyond them, and NaN, which becomes the lower one, in rows of 1 to 5 positions."""
    machine = machine_with("mull", lanes)
    factors = np.array([0, 1, -1, 1e30, -1e30, np.inf, -np.inf, np.nan, 1e7, -1e7, 0.5, -0.5], np.float32)
    workload = ConvWorkload(conv(lanes, 4, (1, 1)), 1, (1, 11), lanes, dtypes=INTEGER, data_lanes=4)
    for columns in range(1, 6):
        plan = dataclasses.replace(plan_direct(workload, machine), columns=columns, vectors=1)
        func = scheduled(scaled(workload, plan, dtype), machine)
        image = np.arange(44, dtype=np.uint8).reshape(workload.data_shape)
        weight = np.ones((lanes, 4, 1, 1), np.int8)
        scale = np.resize(factors, lanes)
        packed = DIRECT.pack(weight, workload, plan)
        (found,) = execute(func, [image, packed, scale], [np.zeros((1, 1, 1, 11, lanes), dtype)])
        with np.errstate(invalid="ignore"):
            real = np.rint(image.astype(np.int32).sum(-1)[0, 0, 0][:, None] * scale) + 5
        limits = np.iinfo(dtype)
        expected = np.clip(np.nan_to_num(real, nan=-np.inf), limits.min, limits.max)
        np.testing.assert_array_equal(found[0, 0, 0], expected)


def conv(o: int, i: int, k: tuple[int, ...], s: int = 1, p: int = 0, d: int = 1, groups: int = 1) -> ConvSpec:
    rank = len(k)
    return ConvSpec(o, i, k, (s,) * rank, (d,) * rank, (p,) * rank, (p,) * rank, groups)


CASES = {
    "3x3": (conv(40, 24, (3, 3), p=1), 2, (5, 9)),
    "channels that do not fill a group of four": (conv(33, 21, (3, 3), p=1), 1, (6, 7)),
    "one channel": (conv(16, 1, (3, 3), p=1), 1, (5, 5)),
    "1x1": (conv(70, 35, (1, 1)), 1, (6, 7)),
    "strided": (conv(17, 16, (3, 3), s=2, p=1), 1, (9, 11)),
    "dilated": (conv(16, 18, (3, 3), p=2, d=2), 1, (9, 8)),
    "groups of whole blocks": (conv(32, 32, (3, 3), p=1, groups=2), 1, (5, 6)),
    "groups that end within a block": (conv(24, 36, (3, 3), p=1, groups=3), 1, (5, 6)),
    "one axis": (conv(20, 12, (5,), p=2), 2, (23,)),
    "three axes": (conv(18, 10, (2, 3, 3), p=1), 1, (3, 4, 5)),
    "one position": (conv(40, 130, (1, 1)), 1, (1, 1)),
}


@pytest.mark.parametrize("lanes", [16, 8, 4])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_odd_shapes(case: str, way: str, lanes: int) -> None:
    spec, batch, space = CASES[case]
    machine = machine_with(way, lanes)
    workload = ConvWorkload(spec, batch, space, lanes, dtypes=types_of(way, machine))
    assert DIRECT.supports(workload, machine)
    check(workload, machine, plan_direct(workload, machine), way)


@pytest.mark.parametrize("way", WAYS)
def test_no_sum_saturates(way: str) -> None:
    lanes = max(lanes for lanes in (16, 8, 4) if lanes * 4 <= MACHINE.vector_bytes)
    machine = machine_with(way, lanes)
    workload = ConvWorkload(conv(16, 64, (3, 3), p=1), 1, (4, 4), lanes, dtypes=types_of(way, machine))
    check(workload, machine, plan_direct(workload, machine), way, extreme=True)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_first_layer_reads_blocks_of_four(channels: int) -> None:
    lanes = MACHINE.lanes("float32")
    workload = ConvWorkload(
        conv(24, channels, (7, 7), s=2, p=3), 1, (20, 19), lanes, dtypes=bytes_for(MACHINE), data_lanes=4
    )
    check(workload, MACHINE, plan_direct(workload, MACHINE), "")


DEPTH = {
    "3x3": (conv(40, 40, (3, 3), p=1, groups=40), 2, (5, 9)),
    "5x5 strided": (conv(21, 21, (5, 5), s=2, p=2, groups=21), 1, (11, 10)),
    "dilated": (conv(16, 16, (3, 3), p=2, d=2, groups=16), 1, (9, 8)),
    "one axis": (conv(20, 20, (9,), p=4, groups=20), 2, (23,)),
}


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("case", DEPTH)
def test_depthwise(case: str, extreme: bool) -> None:
    spec, batch, space = DEPTH[case]
    workload = ConvWorkload(spec, batch, space, MACHINE.lanes("float32"), dtypes=INTEGER)
    assert DEPTHWISE.supports(workload, MACHINE)
    check(workload, MACHINE, plan_depthwise(workload, MACHINE), "integers", extreme)


def test_every_candidate_gives_the_same() -> None:
    lanes = MACHINE.lanes("float32")
    workload = ConvWorkload(conv(5 * lanes, 6 * lanes, (3, 3), p=1), 1, (14, 15), lanes, dtypes=bytes_for(MACHINE))
    for plan in candidates(workload, dataclasses.replace(MACHINE, l1_bytes=8 << 10, l2_bytes=32 << 10))[::4]:
        check(workload, MACHINE, plan, "")


def test_packed_weights_hold_every_number_once() -> None:
    machine = dataclasses.replace(MACHINE, vector_bytes=32, instructions=frozenset({"vnni"}))
    workload = ConvWorkload(conv(20, 11, (3, 1)), 1, (5, 5), 8, dtypes=INTEGER)
    plan = plan_direct(workload, machine)
    weight = np.random.default_rng(0).integers(-128, 128, (20, 11, 3, 1)).astype(np.int8)
    packed = compute.pack_weight(weight, workload, plan)
    assert sorted(packed[packed != 0]) == sorted(weight[weight != 0])
    assert len(packed) == 24 * 12 * 3


@pytest.mark.parametrize(
    ("target", "instruction"),
    [
        ("x86:cascadelake", "vpdpbusd"),
        ("x86:alderlake", "vpdpbusd"),
        ("x86", "vpmaddwd"),
        ("x86", "vpmaddubsw"),
        ("x86:v4", "vpmaddubsw"),
        ("x86:v2", "pmaddwd"),
        ("x86:v2", "pmaddubsw"),
        ("arm:neoverse-n2", "usdot"),
        ("arm", "smlal"),
    ],
)
def test_code_for_other_processors(target: str, instruction: str) -> None:
    """Whatever runs this test, code for every machine is generated, with the instruction meant for it."""
    description = tvm_target(load(target))
    machine = machine_of(description)
    lanes = machine.lanes("float32")
    types = bytes_for(machine, instruction.endswith("pmaddubsw"))
    workload = ConvWorkload(conv(32, 32, (3, 3), p=1), 1, (6, 6), lanes, dtypes=types)
    plan = plan_direct(workload, machine)
    x = placeholder(workload.data_shape, types.data, "x")
    w = placeholder(DIRECT.packed_shape(workload, plan), types.weight, "w")
    func = scheduled([x, w, DIRECT.compute(x, w, workload, plan)], machine)
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    assembly = tvm.compile(module, description, tir_pipeline=PIPELINE).mod.inspect_source("asm")
    assert re.search(rf"\b{instruction}\b", assembly)


def test_sums_of_a_register_tile_stay_in_registers() -> None:
    """LLVM must not reorder the additions of a tile: it would spill the sums in the innermost loop."""
    description = tvm_target(load("x86"))
    machine = machine_of(description)
    workload = ConvWorkload(conv(64, 256, (1, 1)), 1, (56, 56), 8, dtypes=bytes_for(machine))
    plan = plan_direct(workload, machine)
    x = placeholder(workload.data_shape, "int16", "x")
    w = placeholder(DIRECT.packed_shape(workload, plan), "int16", "w")
    func = scheduled([x, w, DIRECT.compute(x, w, workload, plan)], machine)
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    assembly = tvm.compile(module, description, tir_pipeline=PIPELINE).mod.inspect_source("asm")
    products = len(re.findall(r"\bvpmaddwd\b", assembly))
    spilled = len(re.findall(r"\bvpaddd\b.*\(%rsp\)|\bvmovdqu\b.*ymm.*\(%rsp\)$", assembly))
    assert products >= 40
    assert spilled < products / 20


@pytest.mark.parametrize(("channels", "taps", "size"), [(64, 3, 56), (1024, 1, 14), (256, 3, 14), (512, 3, 7)])
def test_the_weights_of_a_tile_stay_in_the_first_cache(channels: int, taps: int, size: int) -> None:
    """A tile reads them again at each of its positions, faster than the second cache gives them."""
    machine = Machine(64, 32, 1, 32 << 10, 1 << 20, instructions=frozenset({"sse2", "avx2", "avx512bw", "vnni"}))
    spec = conv(256, channels, (taps, taps), p=taps // 2)
    plan = plan_direct(ConvWorkload(spec, 1, (size, size), 16, dtypes=INTEGER), machine)
    blocks = plan.chunk or channels // 16
    assert blocks * 16 * taps**2 * plan.vectors * 16 <= machine.l1_bytes * 3 // 4
    assert plan.columns * plan.vectors >= 14
