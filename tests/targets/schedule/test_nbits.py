"""Matmuls by matrices of 4 and 8 bits, against numpy, with groups and columns that do not divide anything."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import te, tirx

from graphopt.targets.tvm.kernels.nbits.compute import stack
from graphopt.targets.tvm.kernels.nbits.family import NBits
from graphopt.targets.tvm.kernels.nbits.plan import MIDDLE, NBitsWorkload
from graphopt.targets.tvm.machine import Machine
from tests.targets.schedule.support import MACHINE, execute, placeholder, scheduled

FAMILY = NBits()


def matrix(workload: NBitsWorkload) -> tuple[np.ndarray, np.ndarray]:
    """A random matrix as `stack` returns it, and as floats."""
    random = np.random.default_rng(workload.k + workload.n)
    integers = random.integers(0, 1 << workload.bits, (workload.k, workload.n)).astype(np.uint8)
    scales = (random.random((workload.groups, workload.n)) * 0.1).astype(np.float32)
    zeros = None
    if workload.zeros:
        zeros = random.integers(0, 1 << workload.bits, scales.shape).astype(np.float32)
    groups = np.arange(workload.k) // workload.block
    zero = np.float32(MIDDLE[workload.bits]) if zeros is None else zeros[groups]
    return stack(integers, scales, zeros), scales[groups] * (integers - zero)


def check(workload: NBitsWorkload, *rows: int, machine: Machine = MACHINE) -> None:
    plan = FAMILY.default(workload, machine)
    assert FAMILY.supports(workload, machine)
    stacked, floats = matrix(workload)
    packed = FAMILY.pack(stacked, workload, plan)
    assert packed.shape == FAMILY.packed_shape(workload, plan)
    m = workload.m if workload.m is not None else te.var("m", "int64")
    x, w = placeholder([m, workload.k], name="a"), placeholder(packed.shape, "uint8", "b")
    out = FAMILY.compute(x, w, workload, plan)
    bias = placeholder([workload.n], name="bias")
    relu = te.compute(out.shape, lambda r, c: tirx.max(out(r, c) + bias(c), tirx.const(0, "float32")), name="relu")
    func = scheduled([x, w, bias, relu], machine)
    assert str(func.attrs["graphopt.schedule"]).startswith("matmul by")
    random = np.random.default_rng(1)
    offset = random.standard_normal(workload.n).astype(np.float32)
    for count in rows or (workload.m or 1,):
        data = random.standard_normal((count, workload.k)).astype(np.float32)
        (found,) = execute(func, [data, packed, offset], [np.zeros((count, workload.n), np.float32)])
        expected = np.maximum(data.astype(np.float64) @ floats + offset, 0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max(initial=1e-3))


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("m", "n", "k", "block"),
    [(1, 64, 64, 32), (1, 1, 16, 16), (3, 100, 96, 32), (2, 70, 50, 16), (4, 200, 45, 15), (5, 64, 33, 64)],
)
def test_few_rows(m: int, n: int, k: int, block: int, bits: int, zeros: bool) -> None:
    check(NBitsWorkload(m, n, k, bits, block, zeros))


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("m", "n", "k", "block"), [(9, 64, 512, 32), (130, 33, 300, 128), (40, 129, 1000, 1000)])
def test_many_rows(m: int, n: int, k: int, block: int, bits: int, zeros: bool) -> None:
    check(NBitsWorkload(m, n, k, bits, block, zeros))


def test_any_number_of_rows() -> None:
    check(NBitsWorkload(None, 50, 96, 4, 32, zeros=True), 0, 1, 3, 7, 129, 300)


def test_narrow_vectors() -> None:
    check(NBitsWorkload(7, 50, 96, 4, 32, zeros=False), machine=Machine(16, 16, 2))
