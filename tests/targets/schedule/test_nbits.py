"""Matmuls by matrices of 2, 4 and 8 bits, against numpy, with groups and columns that do not divide anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tvm import te, tirx

from graphopt.targets.tvm.kernels.common.dot import INTEGER, NAMES, dot_for
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


def rounded(data: np.ndarray, block: int) -> np.ndarray:
    """Data after rounding to 8 bits with a scale for each group of a row."""
    result = np.zeros(data.shape)
    for first in range(0, data.shape[1], block):
        some = data[:, first : first + block]
        scale = np.abs(some).max(axis=1, keepdims=True) / np.float32(127)
        result[:, first : first + block] = np.rint(some * (1 / scale)) * scale
    return result


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
    assert ("rounded" in func.attrs["graphopt.schedule"]) == workload.rounded
    random = np.random.default_rng(1)
    offset = random.standard_normal(workload.n).astype(np.float32)
    for count in rows or (workload.m or 1,):
        data = random.standard_normal((count, workload.k)).astype(np.float32)
        (found,) = execute(func, [data, packed, offset], [np.zeros((count, workload.n), np.float32)])
        exact = rounded(data, workload.block) if workload.rounded else data.astype(np.float64)
        expected = np.maximum(exact @ floats + offset, 0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max(initial=1e-3))


@pytest.mark.parametrize(("bits", "zeros"), [(2, True), (4, False), (4, True), (8, False)])
@pytest.mark.parametrize(
    ("m", "n", "k", "block"),
    [(1, 64, 64, 32), (1, 1, 16, 16), (3, 100, 96, 32), (2, 70, 50, 16), (4, 200, 45, 15), (4, 64, 33, 64)],
)
def test_few_rows(m: int, n: int, k: int, block: int, bits: int, zeros: bool) -> None:
    check(NBitsWorkload(m, n, k, bits, block, zeros))


@pytest.mark.parametrize(("bits", "zeros"), [(2, True), (4, False), (4, True), (8, False)])
@pytest.mark.parametrize(
    ("m", "n", "k", "block"),
    [(9, 64, 512, 32), (130, 33, 300, 128), (40, 129, 1000, 1000), (5, 20, 300, 15), (7, 1, 520, 512)],
)
def test_many_rows(m: int, n: int, k: int, block: int, bits: int, zeros: bool) -> None:
    check(NBitsWorkload(m, n, k, bits, block, zeros))


def test_any_number_of_rows() -> None:
    check(NBitsWorkload(None, 50, 96, 4, 32, zeros=True), 0, 1, 3, 7, 129, 300)


def test_narrow_vectors() -> None:
    check(NBitsWorkload(7, 50, 96, 4, 32, zeros=False), machine=Machine(16, 16, 2))


BYTES = [Machine(64, 32, 2, instructions=frozenset({"avx512bw"})), Machine(32, 16, 2, instructions=frozenset({"avx2"}))]
"""Machines that multiply bytes with instructions that every processor with AVX-512 or AVX2 has."""


def machines() -> list[Machine]:
    """The last of them that this processor is, and itself if it multiplies bytes."""
    able = [machine for machine in BYTES if machine.instructions <= MACHINE.instructions][-1:]
    return able + [MACHINE] * (dot_for(INTEGER, MACHINE.lanes("float32"), MACHINE).width == 4)


@pytest.mark.parametrize(("bits", "zeros"), [(2, True), (4, False), (4, True), (8, False)])
@pytest.mark.parametrize(
    ("m", "n", "k", "block"),
    [(2, 1, 16, 16), (4, 100, 200, 64), (130, 70, 600, 256), (None, 80, 96, 32)],
)
def test_rounded_data(m: int | None, n: int, k: int, block: int, bits: int, zeros: bool) -> None:
    work = NBitsWorkload(m, n, k, bits, block, zeros, rounded=True)
    for machine in machines():
        check(work, *([] if m else [1, 4, 5, 140]), machine=machine)


def test_data_are_not_rounded_where_bytes_are_not_multiplied() -> None:
    work = NBitsWorkload(4, 64, 64, 4, 32, zeros=False, rounded=True)
    plans = [FAMILY.default(work, machine) for machine in (Machine(16, 32, 1), BYTES[1])]
    assert [NAMES[plan.way] for plan in plans] == ["fma", "vpmaddwd"]
    assert NAMES[FAMILY.default(replace(work, rounded=False), BYTES[1]).way] == "fma"


def test_data_of_zeros_and_of_large_groups() -> None:
    """No group is divided by a scale of zero, and groups of thousands are multiplied as floats."""
    work = NBitsWorkload(2, 16, 64, 4, 32, zeros=False, rounded=True)
    plan = FAMILY.default(work, BYTES[1])
    stacked, _ = matrix(work)
    x, w = placeholder([2, 64], name="a"), placeholder(FAMILY.packed_shape(work, plan), "uint8", "b")
    func = scheduled([x, w, FAMILY.compute(x, w, work, plan)], BYTES[1])
    (found,) = execute(
        func, [np.zeros((2, 64), np.float32), FAMILY.pack(stacked, work, plan)], [np.zeros((2, 16), np.float32)]
    )
    assert not found.any()
    assert NAMES[FAMILY.default(replace(work, k=1024, block=1024), BYTES[1]).way] == "fma"
