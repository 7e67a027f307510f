"""Kernels on bfloat16: exact products, sums in float32, and code for the processors that have instructions for them."""

from __future__ import annotations

import dataclasses
import re

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import te, tirx

from graphopt.hardware.target import load
from graphopt.targets.tvm.codegen.build import tvm_target
from graphopt.targets.tvm.kernels.common.conv_workload import ConvSpec, ConvWorkload
from graphopt.targets.tvm.kernels.common.dot import BFLOAT16, NAMES
from graphopt.targets.tvm.kernels.direct.family import Direct
from graphopt.targets.tvm.kernels.direct.plan import candidates
from graphopt.targets.tvm.kernels.matmul.compute import matmul_packed, pack_matrix
from graphopt.targets.tvm.kernels.matmul.family import Matmul
from graphopt.targets.tvm.kernels.matmul.plan import MatmulPlan, MatmulWorkload
from graphopt.targets.tvm.machine import Machine, machine_of
from graphopt.targets.tvm.tir_passes.pipeline import PIPELINE
from tests.targets.schedule.blocks import blocked, onnx_conv, plain
from tests.targets.schedule.support import MACHINE, execute, placeholder, scheduled

PLAIN = dataclasses.replace(MACHINE, instructions=MACHINE.instructions - {"bf16"})
"""The host without instructions for bfloat16: the same kernels, whose steps are two multiplications of floats."""
MACHINES = [PLAIN, MACHINE] if "bf16" in MACHINE.instructions else [PLAIN]
DIRECT = Direct()


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(ml_dtypes.bfloat16)


def same(found: np.ndarray, wanted: np.ndarray) -> None:
    """Only the order of sums differs."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.nanmax(np.abs(wanted), initial=1.0))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 100, 64), (7, 33, 5), (16, 1, 300), (13, 64, 1), (None, 50, 41)])
def test_matmul(m: int | None, n: int, k: int, machine: Machine) -> None:
    """K that is no multiple of 2, columns that fill no vector, and rows that are not known."""
    work = MatmulWorkload(m, n, k, BFLOAT16, packed=True)
    assert Matmul().supports(work, machine)
    plan = MatmulPlan.default(work, machine)
    b = numbers(1, k, n)
    x = placeholder([te.var("m", "int64") if m is None else m, k], "bfloat16", "a")
    w = placeholder(plan.packed_shape, "bfloat16", "b")
    func = scheduled([x, w, matmul_packed(x, w, plan)], machine)
    for rows in [m] if m else [1, 5, 30]:
        a = numbers(2, rows, k)
        expected = (a.astype("float64") @ b.astype("float64")).astype("float32")
        (out,) = execute(func, [a, pack_matrix(b, plan)], [expected])
        same(out, expected)


def test_matmul_in_blocks_of_k() -> None:
    work = MatmulWorkload(9, 40, 75, BFLOAT16, packed=True)
    plan = dataclasses.replace(MatmulPlan.default(work, PLAIN), k_block=16)
    x, w = placeholder((9, 75), "bfloat16", "a"), placeholder(plan.packed_shape, "bfloat16", "b")
    a, b = numbers(1, 9, 75), numbers(2, 75, 40)
    expected = (a.astype("float64") @ b.astype("float64")).astype("float32")
    (out,) = execute(scheduled([x, w, matmul_packed(x, w, plan)], PLAIN), [a, pack_matrix(b, plan)], [expected])
    same(out, expected)


def conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, pad: int = 0, dilation: int = 1, groups: int = 1
) -> ConvSpec:
    two = (1, 1)
    spec = ConvSpec(outputs, inputs, (kernel, kernel), two, two, two, two, groups)
    pads = (pad, pad)
    return dataclasses.replace(spec, strides=(stride,) * 2, dilations=(dilation,) * 2, pads_begin=pads, pads_end=pads)


CONVOLUTIONS = {
    "pointwise": (conv(48, 40, 1), 8),
    "odd channels": (conv(19, 33, 1), 8),
    "three by three": (conv(16, 40, 3, pad=1), 8),
    "odd, strided": (conv(21, 24, 3, stride=2, pad=1), 8),
    "dilated": (conv(5, 9, 3, dilation=2, pad=2), 8),
    "groups": (conv(32, 48, 3, pad=1, groups=2), 8),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_direct_convolution(name: str, machine: Machine) -> None:
    """Results in float32, and those that an epilogue rounds to bfloat16; lanes after the last channel hold NaN."""
    spec, lanes = CONVOLUTIONS[name]
    workload = ConvWorkload(spec, 1, (7, 9), lanes, dtypes=BFLOAT16)
    assert DIRECT.supports(workload, machine)
    data, weight = numbers(1, 1, spec.in_channels, 7, 9), numbers(2, spec.out_channels, spec.in_channels // spec.groups)
    weight = np.broadcast_to(weight[..., None, None], (*weight.shape, *spec.kernel)) * numbers(3, *spec.kernel)
    expected = onnx_conv(data.astype(np.float32), weight.astype(np.float32), workload)
    every = candidates(workload, machine)
    chunked = [plan for plan in every if plan.chunk][:1]
    for plan in [every[0], *chunked]:
        packed = DIRECT.pack(weight, workload, plan)
        assert packed.shape == DIRECT.packed_shape(workload, plan)
        image = blocked(data, lanes)
        x, w = placeholder(image.shape, "bfloat16", "x"), placeholder(packed.shape, "bfloat16", "w")
        out = DIRECT.compute(x, w, workload, plan)
        zero = tirx.const(0, "float32")
        narrow = te.compute(out.shape, lambda *at: tirx.max(out(*at), zero).astype("bfloat16"), name="narrow")  # noqa: B023
        for result, wanted in ((out, expected), (narrow, np.maximum(expected, 0).astype(ml_dtypes.bfloat16))):
            array = np.zeros([int(size) for size in result.shape], wanted.dtype)
            (found,) = execute(scheduled([x, w, result], machine), [image, packed], [array])
            have, want = plain(found, spec.out_channels).astype(np.float32), wanted.astype(np.float32)
            if result is out:
                same(have, want)
            else:
                np.testing.assert_allclose(have, want, rtol=2**-7, atol=1e-5)


def test_infinities_and_nan_reach_what_reads_them() -> None:
    work = MatmulWorkload(4, 20, 7, BFLOAT16, packed=True)
    plan = MatmulPlan.default(work, PLAIN)
    a, b = numbers(1, 4, 7), numbers(2, 7, 20)
    a[1, 6], a[2, 3], a[3, 0] = np.inf, np.nan, 3e38
    with np.errstate(invalid="ignore", over="ignore"):
        expected = a.astype(np.float32) @ b.astype(np.float32)
    x, w = placeholder((4, 7), "bfloat16", "a"), placeholder(plan.packed_shape, "bfloat16", "b")
    (out,) = execute(scheduled([x, w, matmul_packed(x, w, plan)], PLAIN), [a, pack_matrix(b, plan)], [expected])
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("target", "dot", "rounding"),
    [
        ("x86:sapphirerapids", r"vdpbf16ps.*zmm", r"vcvtneps2bf16.*zmm"),
        ("x86:znver4", r"vdpbf16ps.*zmm", r"vcvtneps2bf16.*zmm"),
        ("x86:cooperlake", r"vdpbf16ps.*zmm", r"vcvtneps2bf16.*zmm"),
        ("arm:neoverse-v1", r"bfdot\s+v\d+\.4s", r"bfcvtn"),
        ("arm:neoverse-n2", r"bfdot\s+v\d+\.4s", r"bfcvtn"),
    ],
)
def test_code_for_processors_with_instructions(target: str, dot: str, rounding: str) -> None:
    """Whatever runs this test: both families, with an epilogue that rounds."""
    description = tvm_target(load(target))
    machine = machine_of(description)
    lanes = machine.lanes("float32")
    workload = ConvWorkload(conv(24, 32, 3, pad=1), 1, (6, 6), lanes, dtypes=BFLOAT16)
    plan = DIRECT.default(workload, machine)
    x = placeholder(workload.data_shape, "bfloat16", "x")
    w = placeholder(DIRECT.packed_shape(workload, plan), "bfloat16", "w")
    out = DIRECT.compute(x, w, workload, plan)
    product = MatmulPlan.default(MatmulWorkload(13, 100, 31, BFLOAT16, packed=True), machine)
    a, b = placeholder((13, 31), "bfloat16", "a"), placeholder(product.packed_shape, "bfloat16", "b")
    total = matmul_packed(a, b, product)
    assert NAMES[plan.way] == NAMES[product.way] == ("bfdot" if target.startswith("arm") else "dpbf16ps")
    for data, weight, result in ((x, w, out), (a, b, total)):
        narrow = te.compute(result.shape, lambda *at: result(*at).astype("bfloat16"), name="narrow")  # noqa: B023
        func = scheduled([data, weight, narrow], machine)
        module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
        assembly = tvm.compile(module, description, tir_pipeline=PIPELINE).mod.inspect_source("asm")
        assert re.search(dot, assembly)
        assert re.search(rounding, assembly)
        assert "graphopt_bfloat16" not in assembly, "all is inlined"
