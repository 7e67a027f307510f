"""Transposed tiles against numpy: any permutation, size and type, fused computations, and that tiles are used."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tvm_ffi
from tvm import te, tirx, topi

from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.tir_passes.transpose import TRANSPOSE
from tests.targets.schedule.support import MACHINE, execute, placeholder, scheduled

WIDTHS = [Machine(bytes_, registers, 2) for bytes_, registers in ((16, 32), (32, 16), (64, 32))]


def data(*shape: int, dtype: str = "float32") -> np.ndarray:
    numbers = np.random.default_rng(7).integers(-100, 100, shape)
    return (numbers % 2 == 0) if dtype == "bool" else numbers.astype(dtype)


def is_tiled(func: tirx.PrimFunc) -> bool:
    found: list[tirx.For] = []
    tvm_ffi.structural_walk(func.body, (tirx.For, found.append))
    return any(TRANSPOSE in (loop.annotations or {}) for loop in found)


@pytest.mark.parametrize("machine", WIDTHS, ids=["16", "32", "64"])
@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (17, 40), (64, 33), (5, 100), (100, 3), (1, 50), (31, 1), (0, 20)])
def test_matrices(shape: tuple[int, int], machine: Machine) -> None:
    array = data(*shape)
    x = placeholder(shape)
    func = scheduled([x, topi.transpose(x, (1, 0))], machine)
    assert is_tiled(func) == (min(shape) * 4 >= machine.vector_bytes)
    (out,) = execute(func, [array], [array.T])
    np.testing.assert_array_equal(out, array.T)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(4))))
def test_permutations(axes: tuple[int, ...]) -> None:
    array = data(2, 19, 17, 23)
    expected = array.transpose(axes)
    x = placeholder(array.shape)
    func = scheduled([x, topi.transpose(x, axes)])
    assert is_tiled(func) == (axes[-1] in (1, 2))
    (out,) = execute(func, [array], [expected])
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("seed", range(40))
def test_axes_of_size_one_anywhere(seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = data(*rng.choice([1, 1, 2, 8, 9, 16], 5))
    axes = tuple(int(axis) for axis in rng.permutation(5))
    x = placeholder(array.shape)
    (out,) = execute(scheduled([x, topi.transpose(x, axes)]), [array], [array.transpose(axes)])
    np.testing.assert_array_equal(out, array.transpose(axes))


@pytest.mark.parametrize("dtype", ["float64", "int64", "float16", "int32", "int8", "uint8", "int16", "bool"])
@pytest.mark.parametrize("machine", WIDTHS, ids=["16", "32", "64"])
def test_types(dtype: str, machine: Machine) -> None:
    array = data(3, 37, 45, dtype=dtype)
    expected = array.transpose(2, 0, 1)
    x = placeholder(array.shape, dtype)
    func = scheduled([x, topi.transpose(x, (2, 0, 1))], machine)
    (out,) = execute(func, [array], [expected])
    np.testing.assert_array_equal(out, expected)


def test_conversion_on_the_way() -> None:
    array = data(40, 50, dtype="int8")
    x = placeholder(array.shape, "int8")
    expected = array.T.astype("float32")
    (out,) = execute(scheduled([x, topi.transpose(x, (1, 0)).astype("float32")]), [array], [expected])
    np.testing.assert_array_equal(out, expected)


def test_sizes_known_when_it_runs() -> None:
    n, m = tirx.Var("n", "int64"), tirx.Var("m", "int64")
    x = placeholder((3, n, m))
    func = scheduled([x, topi.transpose(x, (0, 2, 1))])
    assert is_tiled(func)
    for rows, columns in ((1, 1), (8, 8), (16, 9), (3, 70), (70, 3), (33, 41), (0, 8), (8, 0), (7, 7)):
        array = data(3, rows, columns)
        expected = array.transpose(0, 2, 1)
        (out,) = execute(func, [array], [expected])
        np.testing.assert_array_equal(out, expected)


def test_what_is_computed_before_and_behind() -> None:
    """Both sides of a transposed sum, one of them transposed and read twice, a row and a column to broadcast."""
    a, b, row, column = data(2, 21, 30), data(2, 30, 21), data(21), data(30, 1)
    x, y, r, c = (placeholder(array.shape, name=name) for array, name in zip((a, b, row, column), "xyrc", strict=True))
    turned = topi.transpose(topi.nn.relu(x), (0, 2, 1))
    total = topi.add(topi.multiply(topi.add(topi.multiply(turned, turned), y), c), r)
    expected = (np.maximum(a, 0).transpose(0, 2, 1) ** 2 + b) * column + row
    func = scheduled([x, y, r, c, total])
    assert is_tiled(func)
    (out,) = execute(func, [a, b, row, column], [expected])
    np.testing.assert_array_equal(out, expected)


def test_two_matrices_turned_at_once() -> None:
    a, b = data(21, 30), data(21, 30)[::-1].copy()
    x, y = placeholder(a.shape, name="x"), placeholder(b.shape, name="y")
    total = topi.subtract(topi.transpose(x, (1, 0)), topi.transpose(y, (1, 0)))
    (out,) = execute(scheduled([x, y, total]), [a, b], [a.T])
    np.testing.assert_array_equal(out, (a - b).T)


def to_blocked(x: te.Tensor, block: int) -> te.Tensor:
    batch, channels, *space = (int(size) for size in x.shape)

    def element(n: tirx.Var, outer: tirx.Var, *rest: tirx.Var) -> tirx.Expr:
        channel = outer * block + rest[-1]
        return tirx.if_then_else(channel < channels, x(n, channel, *rest[:-1]), tirx.const(0, "float32"))

    shape = [tirx.IntImm("int64", n) for n in (batch, -(-channels // block), *space, block)]
    return te.compute(shape, element, name="to_blocked")


def from_blocked(x: te.Tensor, channels: int) -> te.Tensor:
    block = int(x.shape[-1])
    shape = [x.shape[0], tirx.IntImm("int64", channels), *x.shape[2:-1]]
    return te.compute(shape, lambda n, c, *i: x(n, c // block, *i, c % block), name="from_blocked")


@pytest.mark.parametrize("images", [1, 2, 8, 16])
@pytest.mark.parametrize("channels", [1, 3, 8, 16, 20, 29])
@pytest.mark.parametrize("space", [(1, 1), (3, 5), (7, 7), (4, 9)])
def test_blocks_of_channels(channels: int, space: tuple[int, int], images: int) -> None:
    block = MACHINE.lanes("float32")
    array = data(images, channels, *space)
    padded = np.zeros((images, -(-channels // block) * block, *space), "float32")
    padded[:, :channels] = array
    expected = np.ascontiguousarray(np.moveaxis(padded.reshape(images, -1, block, *space), 2, -1))
    x = placeholder(array.shape)
    func = scheduled([x, to_blocked(x, block)])
    assert is_tiled(func) == (space[0] * space[1] >= block)
    (out,) = execute(func, [array], [expected])
    np.testing.assert_array_equal(out, expected)
    y = placeholder(expected.shape)
    func = scheduled([y, from_blocked(y, channels)])
    assert is_tiled(func) == (space[0] * space[1] >= block <= channels)
    (out,) = execute(func, [expected], [array])
    np.testing.assert_array_equal(out, array)


def test_padding_behind_a_transposition() -> None:
    """Conditions on both axes, for which whole tiles are tested once."""
    array = data(40, 37)
    x = placeholder(array.shape)
    turned = topi.transpose(x, (1, 0))

    def element(i: tirx.Var, j: tirx.Var) -> tirx.Expr:
        inside = tirx.all(i >= 3, i < 40, j > 1, j <= 41)
        return tirx.if_then_else(inside, turned(i - 3, j - 2), tirx.const(9, "float32"))

    padded = te.compute([tirx.IntImm("int64", 45), tirx.IntImm("int64", 43)], element, name="padded")
    expected = np.pad(array.T, ((3, 5), (2, 1)), constant_values=9)
    (out,) = execute(scheduled([x, padded]), [array], [expected])
    np.testing.assert_array_equal(out, expected)


def test_blocks_of_shuffled_channels() -> None:
    """Columns that lie at no regular steps: what a channel shuffle before a change to blocks makes of them."""
    block, groups = MACHINE.lanes("float32"), 4
    array = data(2, 5 * block, 5, 7)
    x = placeholder(array.shape)
    each = array.shape[1] // groups
    shuffled = te.compute(x.shape, lambda n, c, h, w: x(n, c % groups * each + c // groups, h, w), name="shuffled")
    func = scheduled([x, to_blocked(shuffled, block)])
    assert is_tiled(func)
    moved = array.reshape(2, groups, -1, 5, 7).swapaxes(1, 2).reshape(2, -1, block, 5, 7)
    expected = np.ascontiguousarray(np.moveaxis(moved, 2, -1))
    (out,) = execute(func, [array], [expected])
    np.testing.assert_array_equal(out, expected)
