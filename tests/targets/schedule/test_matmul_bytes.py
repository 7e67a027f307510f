"""Matmuls of bytes: every way to multiply gives exactly numpy's sums, and reads nothing beyond the last row."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from tvm import te, tirx

from graphopt.targets.tvm.kernels.common.dot import INTEGER, LARGEST_SMALL, bytes_for
from graphopt.targets.tvm.kernels.matmul.compute import matmul, matmul_packed, pack_matrix
from graphopt.targets.tvm.kernels.matmul.family import Matmul
from graphopt.targets.tvm.kernels.matmul.plan import MatmulWorkload
from graphopt.targets.tvm.machine import Machine
from tests.targets.schedule.support import MACHINE, execute, placeholder, scheduled
from tests.targets.schedule.test_direct_bytes import WAYS, machine_with

FAMILY = Matmul()


@pytest.fixture(autouse=True)
def _no_schedule_fails(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A schedule that fails is replaced by a more general one with the same results."""
    yield
    assert not caplog.records


def halved(sums: te.Tensor) -> te.Tensor:
    return te.compute(sums.shape, lambda *i: sums(*i).astype("float32") * tirx.const(0.5, "float32"), name="half")


def check(
    batch: tuple[int, ...], m: int, n: int, k: int, machine: Machine, *, extreme: bool = False, small: bool = False
) -> None:
    types = bytes_for(machine, small)
    most = LARGEST_SMALL if types.small_weight else 128
    workload = MatmulWorkload(m, n, k, types, packed=True)
    assert FAMILY.supports(workload, machine)
    random = np.random.default_rng(m + n + k)
    a = random.integers(0, 256, (*batch, m, k)).astype(np.uint8)
    b = random.integers(-most, most, (k, n)).astype(np.int8)
    if extreme:
        a[:], b[:] = 255, -most
    sums = a.astype(np.int64) @ b
    a, b = a.astype(types.data), b.astype(types.weight)
    for plan in FAMILY.candidates(workload, machine)[:3]:
        packed = np.concatenate(list(FAMILY.parts(b, workload, plan)))
        np.testing.assert_array_equal(packed, pack_matrix(b, plan))
        x, w = placeholder(a.shape, types.data, "a"), placeholder(packed.shape, types.weight, "b")
        out = matmul_packed(x, w, plan)
        half = halved(out)
        for result, dtype, expected in ((out, "int32", sums), (half, "float32", sums / 2)):
            func = scheduled([x, w, result], machine)
            (found,) = execute(func, [a, packed], [np.zeros(expected.shape, dtype)])
            np.testing.assert_array_equal(found, expected)


SIZES = [
    ((), 1, 1, 1),
    ((), 1, 1000, 64),
    ((), 7, 33, 5),
    ((2,), 13, 64, 31),
    ((1, 3), 40, 96, 18),
    ((), 17, 10, 7),
    ((), 64, 48, 3),
]


@pytest.mark.parametrize("lanes", [16, 8, 4])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_odd_sizes(size: tuple[tuple[int, ...], int, int, int], way: str, lanes: int) -> None:
    check(*size, machine_with(way, lanes), small=way == "vpmaddubsw")


@pytest.mark.parametrize("way", WAYS)
def test_no_sum_saturates(way: str) -> None:
    lanes = MACHINE.lanes("float32")
    check((), 5, 40, 300, machine_with(way, lanes), extreme=True, small=way == "vpmaddubsw")


@pytest.mark.parametrize("k", [8192, 8195])
def test_k_in_blocks(k: int) -> None:
    workload = MatmulWorkload(40, 100, k, bytes_for(MACHINE), packed=True)
    assert FAMILY.default(workload, MACHINE).k_block
    check((), 40, 100, k, MACHINE)


def test_any_number_of_rows() -> None:
    machine = dataclasses.replace(MACHINE)
    types = bytes_for(machine)
    plan = FAMILY.default(MatmulWorkload(None, 50, 30, types, packed=True), machine)
    rows = te.var("m", "int64")
    random = np.random.default_rng(0)
    b = random.integers(-128, 128, (30, 50)).astype(np.int8)
    packed = pack_matrix(b.astype(types.weight), plan)
    x, w = placeholder([rows, 30], types.data, "a"), placeholder(packed.shape, types.weight, "b")
    func = scheduled([x, w, matmul_packed(x, w, plan)], machine)
    for m in (0, 1, 2, 3, 9, 30):
        a = random.integers(0, 256, (m, 30)).astype(np.uint8)
        (found,) = execute(func, [a.astype(types.data), packed], [np.zeros((m, 50), np.int32)])
        np.testing.assert_array_equal(found, a.astype(np.int32) @ b)


@pytest.mark.parametrize("lanes", [16, 8, 4])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_matrix_that_is_packed_at_run_time(
    size: tuple[tuple[int, ...], int, int, int], transposed: bool, way: str, lanes: int
) -> None:
    batch, m, n, k = size
    machine = machine_with(way, lanes)
    workload = MatmulWorkload(m, n, k, INTEGER, transpose_b=transposed)
    assert FAMILY.supports(workload, machine)
    random = np.random.default_rng(m + n + k)
    a = random.integers(0, 256, (*batch, m, k)).astype(np.uint8)
    b = random.integers(-128, 128, (*batch, k, n)).astype(np.int8)
    given = np.ascontiguousarray(b.swapaxes(-1, -2)) if transposed else b
    sums = a.astype(np.int64) @ b
    for plan in FAMILY.candidates(workload, machine)[:2]:
        x, y = placeholder(a.shape, "uint8", "a"), placeholder(given.shape, "int8", "b")
        func = scheduled([x, y, halved(matmul(x, y, plan))], machine)
        (found,) = execute(func, [a, given], [np.zeros(sums.shape, "float32")])
        np.testing.assert_array_equal(found, sums / 2)


def test_one_matrix_for_a_batch_is_packed_once_at_run_time() -> None:
    workload = MatmulWorkload(5, 20, 9, INTEGER)
    plan = FAMILY.default(workload, MACHINE)
    random = np.random.default_rng(0)
    a = random.integers(0, 256, (3, 5, 9)).astype(np.uint8)
    b = random.integers(-128, 128, (9, 20)).astype(np.int8)
    x, y = placeholder(a.shape, "uint8", "a"), placeholder(b.shape, "int8", "b")
    (found,) = execute(scheduled([x, y, matmul(x, y, plan)], MACHINE), [a, b], [np.zeros((3, 5, 20), np.int32)])
    np.testing.assert_array_equal(found, a.astype(np.int32) @ b)
