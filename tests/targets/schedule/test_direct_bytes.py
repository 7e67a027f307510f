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
    """Compare the sums, and the bytes that an epilogue makes of them; lanes after the last channel hold anything."""
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
    low, high, zero = (tirx.const(n, "float32") for n in (0, 255, 128))

    def requantized(*index: object) -> tirx.Expr:
        value = tirx.nearbyint(out(*index).astype("float32") * tirx.const(2**-10, "float32")) + zero
        return tirx.max(tirx.min(value, high), low).astype("int32").astype("uint8")

    expected = conv_integer(data, weight, spec)
    rounded = np.clip(np.rint(expected.astype(np.float32) * np.float32(2**-10)) + 128, 0, 255)
    for result, dtype, numbers in (
        (out, "int32", expected),
        (te.compute(out.shape, requantized, name="q"), "uint8", rounded),
    ):
        func = scheduled([x, w, result], machine)
        text = str(func.attrs["graphopt.schedule"])
        assert text.startswith("depthwise" if workload.is_depthwise else "direct convolution")
        assert way in text
        (found,) = execute(func, [image, packed], [np.zeros([int(size) for size in out.shape], dtype)])
        np.testing.assert_array_equal(plain(found, spec.out_channels), numbers)


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
