"""Pooling and local response normalization of channel-blocked activations against numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tvm
from tvm import te, tirx

from graphopt.targets.tvm.cpu.schedule import schedule_function
from graphopt.targets.tvm.kernels.common.windows import Geometry
from graphopt.targets.tvm.kernels.lrn import compute as lrn
from graphopt.targets.tvm.kernels.pooling import compute as pooling
from graphopt.targets.tvm.kernels.pooling.compute import MAX, SUM
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.relax_passes.concat import part_of
from tests.targets.schedule.blocks import blocked, plain
from tests.targets.schedule.support import execute, placeholder, scheduled

AVX2 = Machine(32, 16, 2)
LANES = 8

GEOMETRIES = {
    "as in ResNet": Geometry((3, 3), (2, 2), (1, 1), (1, 1), (1, 1), (11, 14)),
    "as in SqueezeNet": Geometry((3, 3), (2, 2), (1, 1), (0, 0), (1, 1), (10, 10)),
    "dilated": Geometry((2, 3), (1, 2), (3, 2), (1, 2), (2, 1), (9, 8)),
    "one axis": Geometry((5,), (1,), (1,), (2,), (2,), (9,)),
    "one axis written as two": Geometry((3, 1), (2, 1), (1, 1), (1, 0), (1, 0), (9, 1)),
    "one position": Geometry((2, 2), (2, 2), (1, 1), (0, 0), (0, 0), (2, 2)),
    "a long window": Geometry((1, 9), (1, 1), (1, 1), (0, 4), (0, 4), (3, 20)),
}


def pooled(data: np.ndarray, shape: Geometry, kind: int) -> np.ndarray:
    """Every window on its own."""
    fill = -np.inf if kind == MAX else 0
    pads = [(0, 0), (0, 0), *zip(shape.begin, shape.end, strict=True)]
    full = np.pad(data, pads, constant_values=fill)
    result = np.empty((*data.shape[:2], *shape.out_space), np.float32)
    for place in itertools.product(*map(range, shape.out_space)):
        taps = tuple(
            slice(p * s, p * s + d * (k - 1) + 1, d)
            for p, s, d, k in zip(place, shape.strides, shape.dilations, shape.kernel, strict=True)
        )
        window = full[(slice(None), slice(None), *taps)].reshape(*data.shape[:2], -1)
        result[(slice(None), slice(None), *place)] = window.max(-1) if kind == MAX else window.sum(-1)
    return result


@pytest.mark.parametrize(
    "shape",
    [
        Geometry((1, 1), (1, 1), (1, 1), (0, 0), (0, 0), (5, 7)),
        Geometry((3, 3), (1, 1), (1, 1), (1, 1), (1, 1), (9, 12)),
        Geometry((3, 3), (2, 2), (1, 1), (1, 1), (1, 1), (11, 14)),
        Geometry((5,), (2,), (1,), (2,), (2,), (40,)),
    ],
)
def test_ahead_is_all_that_the_later_tile_reads_first(shape: Geometry) -> None:
    """Of the next tile of a single row, or of the one in the row below."""
    run = shape.runs(3)[0]
    single = shape.is_pointwise or len(shape.space) == 1

    def read(row: int, first: int) -> set[tuple[int, ...]]:
        """Positions under the taps of a tile."""
        if shape.is_pointwise:
            return {(place // 7, place % 7) for place in range(first, first + 3)}
        rows = [row * shape.strides[0] - shape.begin[0] + tap for tap in range(shape.kernel[0])]
        axis = shape.axis
        columns = [
            column * shape.strides[axis] - shape.begin[axis] + tap
            for column in range(first, first + 3)
            for tap in range(shape.kernel[axis])
        ]
        return {(column,) for column in columns} if single else set(itertools.product(rows, columns))

    later = read(0, 6) if single else read(2, 3)
    ahead = list(shape.ahead(run, tirx.IntImm("int64", 1), tirx.IntImm("int64", 3), 1))
    found = [tuple(int(tvm.sym.Analyzer().simplify(index)) for index in place) for place in ahead]
    assert set(found) == later - read(1, 3)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("kind", [MAX, SUM])
@pytest.mark.parametrize("shape", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_pooling(shape: Geometry, kind: int) -> None:
    data = np.random.default_rng(1).standard_normal((2, 12, *shape.space)).astype(np.float32)
    expected = np.abs(pooled(data, shape, kind))
    x = placeholder(blocked(data, LANES).shape)
    out = pooling.pool(x, shape, kind, AVX2)
    result = te.compute(out.shape, lambda *i: tirx.abs(out(*i)), name="abs")
    func = scheduled([x, result], AVX2)
    assert str(func.attrs["graphopt.schedule"]).startswith("pooling")
    (found,) = execute(func, [blocked(data, LANES)], [np.zeros([int(size) for size in out.shape], np.float32)])
    np.testing.assert_allclose(plain(found, 12), expected, rtol=1e-5, atol=1e-5)


def test_pooling_alone_and_with_nan() -> None:
    """Nothing fused after it: the nest writes the result itself; NaN in a window is its maximum."""
    shape = GEOMETRIES["as in ResNet"]
    data = np.random.default_rng(2).standard_normal((1, 8, *shape.space)).astype(np.float32)
    data[0, 3, 5, 5] = np.nan
    x = placeholder(blocked(data, LANES).shape)
    out = pooling.pool(x, shape, MAX, AVX2)
    (found,) = execute(
        scheduled([x, out], AVX2), [blocked(data, LANES)], [np.zeros([int(size) for size in out.shape], np.float32)]
    )
    expected = pooled(data, shape, MAX)
    assert np.isnan(expected).sum() > 0
    np.testing.assert_array_equal(plain(found, 8), expected)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 17, 19])
@pytest.mark.parametrize("space", [(1, 1), (3, 7), (5,)])
def test_lrn(space: tuple[int, ...], size: int) -> None:
    data = np.random.default_rng(3).standard_normal((2, 24, *space)).astype(np.float32)
    before = (size - 1) // 2
    squares = np.pad(data**2, [(0, 0), (before, size - 1 - before), *[(0, 0)] * len(space)])
    expected = sum(squares[:, k : k + 24] for k in range(size)) + 1
    x = placeholder(blocked(data, LANES).shape)
    total = lrn.square_sums(x, size)
    result = te.compute(total.shape, lambda *i: total(*i) + tirx.const(1, "float32"), name="plus")
    func = scheduled([x, result], AVX2)
    wide = size // 2 > LANES  # sums that reach over more than a neighbouring block have a general schedule
    assert (str(func.attrs["graphopt.schedule"]) == f"lrn {size}") is not wide
    (found,) = execute(func, [blocked(data, LANES)], [np.zeros([int(s) for s in total.shape], np.float32)])
    np.testing.assert_allclose(plain(found, 24), expected, rtol=1e-5)


def test_rows_leave_out_the_taps_beside_the_image() -> None:
    shape = Geometry((3, 3), (1, 1), (1, 1), (1, 1), (1, 1), (4, 7))
    runs = shape.runs(3)
    assert [(run.first, run.length, run.count) for run in runs] == [(0, 3, 1), (3, 2, 1), (5, 2, 1)]
    assert runs[0].taps == ((1, 2), (0, 1, 2), (0, 1, 2))
    assert runs[-1].taps == ((0, 1), (0, 1), (0,))


def test_geometry_survives_an_annotation() -> None:
    for shape in GEOMETRIES.values():
        assert Geometry.of(shape.numbers()) == shape


@pytest.mark.parametrize(("index", "offset"), [(1, 0), (1, 3), (0, 0)])
def test_a_part_of_a_larger_tensor_is_all_that_is_touched(index: int, offset: int) -> None:
    """Parameter `index` lies in a tensor of 6 blocks: the kernel has the extents of its own result, which are 2."""
    shape = GEOMETRIES["as in ResNet"]
    data = np.random.default_rng(2).standard_normal((2, 16, *shape.space)).astype(np.float32)
    x = placeholder(blocked(data, LANES).shape)
    for out in (pooling.pool(x, shape, MAX, AVX2), lrn.square_sums(x, 3)):
        func = te.create_prim_func([x, out])
        sizes = [[int(size) for size in tensor.shape] for tensor in (x, out)]
        (alone,) = execute(schedule_function(func, AVX2), [blocked(data, LANES)], [np.zeros(sizes[1], np.float32)])
        whole = [*sizes[index][:1], 6, *sizes[index][2:]]
        sizes[index] = whole
        given = blocked(data, LANES)
        if index == 0:
            given = np.concatenate([given, np.full((2, 4, *whole[2:]), np.nan, np.float32)], axis=1)
        made = schedule_function(part_of(func, index, whole, 1, offset), AVX2)
        assert "graphopt.schedule" in made.attrs
        (found,) = execute(made, [given], [np.zeros(sizes[1], np.float32)])
        np.testing.assert_array_equal(found[:, offset : offset + 2], alone)
        others = np.delete(found, [offset, offset + 1], axis=1)
        np.testing.assert_array_equal(others, np.full_like(others, 7))  # as `execute` fills them
