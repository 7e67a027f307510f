"""Loops over padded rows, split where the padding begins and ends, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import te, tirx

from graphopt.targets.tvm.tir_passes.border import BORDER, split_border
from tests.targets.schedule.support import execute, placeholder, scheduled

CASES = [(1, 3, 0, 0), (5, 9, 1, 1), (4, 33, 3, 0), (2, 40, 0, 5), (3, 1, 2, 2), (0, 8, 1, 1), (6, 17, 40, 1)]


def padded_rows(x: te.Tensor, before: int, after: int, stride: int, rows: object, columns: object) -> te.Tensor:
    """Every `stride`-th column of `x` with sevens around it on both axes."""
    width = (columns + before + after + stride - 1) // stride  # type: ignore[operator]

    def element(i: tirx.Var, j: tirx.Var) -> tirx.Expr:
        row, column = i - before, j * stride - before
        inside = tirx.all(i >= before, i < rows + before, j * stride >= before, j * stride < columns + before)
        return tirx.if_then_else(inside, x(row, column), tirx.const(7, "float32"))

    return te.compute((rows + before + after, width), element, name="pad")  # type: ignore[operator]


def expected(array: np.ndarray, before: int, after: int, stride: int) -> np.ndarray:
    return np.pad(array, ((before, after), (before, after)), constant_values=7)[:, ::stride]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("rows", "columns", "before", "after"), CASES)
def test_padding_of_known_sizes(rows: int, columns: int, before: int, after: int, stride: int) -> None:
    array = np.random.default_rng(3).standard_normal((rows, columns)).astype("float32")
    x = placeholder(array.shape)
    out = padded_rows(x, before, after, stride, tirx.IntImm("int64", rows), tirx.IntImm("int64", columns))
    wanted = expected(array, before, after, stride)
    (found,) = execute(scheduled([x, out]), [array], [np.zeros_like(wanted)])
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("stride", [1, 2])
def test_padding_of_unknown_sizes(stride: int) -> None:
    n, m = tirx.Var("n", "int64"), tirx.Var("m", "int64")
    x = placeholder((n, m))
    func = scheduled([x, padded_rows(x, 2, 3, stride, n, m)])
    for rows, columns in ((1, 1), (3, 16), (5, 37), (0, 4), (2, 0)):
        array = np.random.default_rng(4).standard_normal((rows, columns)).astype("float32")
        wanted = expected(array, 2, 3, stride)
        (found,) = execute(func, [array], [np.zeros_like(wanted)])
        np.testing.assert_array_equal(found, wanted)


def test_every_comparison_and_sign() -> None:
    """Bounds from each of the four comparisons, with the loop's variable on either side."""
    tests = [
        lambda j: j * 3 > 7,
        lambda j: j * 3 >= 6,
        lambda j: j * 2 < 31,
        lambda j: j * 2 <= 30,
        lambda j: 20 - j * 3 > -1,
        lambda j: 20 - j * 3 >= 0,
        lambda j: 9 - j * 2 < 2,
        lambda j: 9 - j * 2 <= 1,
    ]
    for test in tests:
        x = placeholder((4, 20))
        array = np.arange(80, dtype="float32").reshape(4, 20)

        def kept(i: tirx.Var, j: tirx.Var) -> tirx.Expr:
            return tirx.if_then_else(test(j), x(i, j), tirx.const(0, "float32"))  # noqa: B023

        out = te.compute((4, 20), kept, name="kept")
        wanted = np.where([bool(test(j)) for j in range(20)], array, 0).astype("float32")
        (found,) = execute(scheduled([x, out]), [array], [np.zeros_like(wanted)])
        np.testing.assert_array_equal(found, wanted)


def test_no_condition_is_left_in_the_loops() -> None:
    n = tirx.Var("n", "int64")
    data = tirx.decl_buffer((n, 12), "float32", name="data")
    out = tirx.decl_buffer((n, 16), "float32", name="out")
    i, j = tirx.Var("i", "int64"), tirx.Var("j", "int64")
    zero = tirx.const(0, "int64")
    inside = tirx.all(j >= 2, j < 14)
    value = tirx.if_then_else(inside, tirx.BufferLoad(data, [i, j - 2]), tirx.const(0, "float32"))
    store = tirx.BufferStore(out, value, [i, j])
    inner = tirx.For(j, zero, tirx.const(16, "int64"), tirx.ForKind.SERIAL, store, annotations={BORDER: 1})
    func = tirx.PrimFunc([data, out], tirx.For(i, zero, n, tirx.ForKind.SERIAL, inner))
    done = split_border()(tvm.IRModule({"main": func}))["main"]
    extents: list[int] = []

    def visit(loop: tirx.For) -> None:
        if isinstance(loop.extent, tirx.IntImm):
            extents.append(int(loop.extent))

    tvm_ffi.structural_walk(done.body, (tirx.For, visit))
    assert sorted(extents) == [2, 2, 12]
    assert "if_then_else" not in done.script()
