"""Operators that read or write at computed positions: gathering, scattering, diagonals, ranges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.converters.cast import cast_to
from graphopt.targets.tvm.converters.elementwise import select
from graphopt.targets.tvm.converters.tensors import product, unflatten, zero
from graphopt.targets.tvm.converters.window import int_expr
from graphopt.targets.tvm.lowering.call import Call, normal_axis
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter


def wrapped(index: tirx.Expr, extent: Dim) -> tirx.Expr:
    """Return an index counted from the end if it is negative, and always clamped to the axis: never a wild read."""
    index = index.astype("int64")
    size = int_expr(extent)
    positive = tirx.Select(index < int_expr(0), index + size, index)
    return tirx.max(int_expr(0), tirx.min(positive, size - int_expr(1)))


@converter("Gather")
def gather(c: Call) -> Operand:
    data, indices = c[0], c[1]
    axis = c.axis(data.rank)
    extent = data.shape[axis]
    sizes = [*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]]
    if indices.is_host and indices.size == 1:
        place = indices.scalars().reshape(-1)[0]
        if isinstance(place, int):
            return _gather_one(c, place, axis, sizes)

    def gather(x: te.Tensor, where_: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            middle = index[axis : axis + indices.rank]
            return x(*index[:axis], wrapped(where_(*middle), extent), *index[axis + indices.rank :])

        return define(sizes, element, name="gather")

    return c.ctx.te(gather, data, indices, name="gather")


def _gather_one(c: Call, place: int, axis: int, sizes: Sequence[Dim]) -> Operand:
    """Gather at one known index: a plain slice, which can be fused with anything."""
    data, rank = c[0], c[1].rank
    start = data.shape[axis] + place if place < 0 else place
    if isinstance(start, int) and isinstance(data.shape[axis], int) and not 0 <= start < data.shape[axis]:
        raise Declined(f"index {place} of an axis of {data.shape[axis]}")

    def take(x: te.Tensor) -> te.Tensor:
        return define(sizes, lambda *i: x(*i[:axis], start, *i[axis + rank :]), name="take")

    return c.ctx.te(take, data, name="take")


@converter("GatherElements")
def gather_elements(c: Call) -> Operand:
    data, indices = c[0], c[1]
    axis = c.axis(data.rank)

    def gather(x: te.Tensor, where_: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            return x(*index[:axis], wrapped(where_(*index), data.shape[axis]), *index[axis + 1 :])

        return define(indices.shape, element, name="gather_elements")

    return c.ctx.te(gather, data, indices, name="gather_elements")


@converter("GatherND")
def gather_nd(c: Call) -> Operand:
    data, indices, batch = c[0], c[1], int(c.attr("batch_dims", 0))
    depth = indices.shape[-1]
    if not isinstance(depth, int):
        raise Declined("the number of indexed axes is not known")
    lead = indices.shape[:-1]
    data = c.ctx.require(data, [*lead[:batch], *data.shape[batch:]])
    sizes = [*lead, *data.shape[batch + depth :]]

    def gather(x: te.Tensor, where_: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            row, rest = index[: len(lead)], index[len(lead) :]
            found = [wrapped(where_(*row, i), data.shape[batch + i]) for i in range(depth)]
            return x(*row[:batch], *found, *rest)

        return define(sizes, element, name="gather_nd")

    return c.ctx.te(gather, data, indices, name="gather_nd")


_COMBINE: dict[str, Callable[[tirx.Expr, tirx.Expr], tirx.Expr]] = {
    "none": lambda old, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    # Like ONNX Runtime, a NaN in the data is lost, one in an update is kept.
    "max": lambda old, new: select(old > new, old, new),
    "min": lambda old, new: select(old < new, old, new),
}
_COMBINE_BOOLEANS = {**_COMBINE, "add": tirx.Or, "mul": tirx.And}


def _scattered(
    ctx: Context,
    data: Operand,
    indices: Operand,
    updates: Operand,
    place: Callable[[te.Tensor, Sequence[tirx.Expr]], list[Any]],
    mode: str,
) -> Operand:
    """Copy `data` and write `updates` one after the other, in order, so that the last one wins."""
    combine = (_COMBINE_BOOLEANS if data.dtype == "bool" else _COMBINE)[mode]
    count = product(updates.shape)

    def scatter(x: te.Tensor, where_: te.Tensor, new: te.Tensor) -> te.Tensor:
        body = _scatter_body(data, updates, place, combine, count)
        return te.extern(
            [[int_expr(s) for s in data.shape]],
            [x, where_, new],
            lambda ins, outs: body(ins[0], ins[1], ins[2], outs[0]),
            dtype=[data.dtype],
            name="scatter",
        )

    return ctx.te(scatter, data, indices, updates, name="scatter")


def _scatter_body(data: Operand, updates: Operand, place: Any, combine: Any, count: Dim) -> Any:
    def body(x: Any, where_: Any, new: Any, out: Any) -> Any:
        with IRBuilder() as builder, T.seq_scope():
            with T.serial(int_expr(0), int_expr(product(data.shape))) as i:
                at = unflatten(i, data.shape)
                T.buffer_store(out, x[tuple(at)], at)
            with T.serial(int_expr(0), int_expr(count)) as j:
                source = unflatten(j, updates.shape)
                target = place(where_, source)
                T.buffer_store(out, combine(out[tuple(target)], new[tuple(source)]), target)
        return builder.get()

    return body


@converter("ScatterElements", "Scatter")
def scatter_elements(c: Call) -> Operand:
    data, indices, updates = c[0], c[1], c[2]
    axis = c.axis(data.rank)
    updates = c.ctx.require(updates, indices.shape)

    def place(where_: Any, source: Sequence[tirx.Expr]) -> list[Any]:
        target = wrapped(where_[tuple(source)], data.shape[axis])
        return [*source[:axis], target, *source[axis + 1 :]]

    return _scattered(c.ctx, data, indices, updates, place, str(c.attr("reduction", "none")))


@converter("ScatterND")
def scatter_nd(c: Call) -> Operand:
    data, indices, updates = c[0], c[1], c[2]
    depth = indices.shape[-1]
    if not isinstance(depth, int):
        raise Declined("the number of indexed axes is not known")
    lead = indices.shape[:-1]
    updates = c.ctx.require(updates, [*lead, *data.shape[depth:]])

    def place(where_: Any, source: Sequence[tirx.Expr]) -> list[Any]:
        row, rest = source[: len(lead)], source[len(lead) :]
        return [*[wrapped(where_[(*row, i)], data.shape[i]) for i in range(depth)], *rest]

    return _scattered(c.ctx, data, indices, updates, place, str(c.attr("reduction", "none")))


@converter("OneHot")
def one_hot(c: Call) -> Operand:
    indices, values = c[0], c[2]
    depth = c.ctx.dim(c.ctx.scalars(_as_integer(c.ctx, c[1])).reshape(-1)[0])
    axis = normal_axis(int(c.attr("axis", -1)), indices.rank + 1)
    sizes = [*indices.shape[:axis], depth, *indices.shape[axis:]]

    def one_hot(where_: te.Tensor, pair: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            wanted = where_(*index[:axis], *index[axis + 1 :]).astype("int64")
            wanted = tirx.Select(wanted < int_expr(0), wanted + int_expr(depth), wanted)
            return tirx.Select(tirx.EQ(wanted, index[axis]), pair(1), pair(0))

        return define(sizes, element, name="one_hot")

    return c.ctx.te(one_hot, indices, values, name="one_hot")


def _as_integer(ctx: Context, operand: Operand) -> Operand:
    """Return a float operand that represents an integer, as int64."""
    if not operand.is_float:
        return operand
    if operand.array is not None:
        return Operand.constant(operand.array.astype(np.int64))
    return cast_to(ctx, operand, "int64")


@converter("Trilu")
def trilu(c: Call) -> Operand:
    data, upper = c[0], bool(c.attr("upper", 1))
    shift = 0 if c.input(1) is None else c.ctx.scalars(c[1]).reshape(-1)[0]

    def trilu(x: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            row, column = index[-2] + shift, index[-1]
            keep = column >= row if upper else column <= row
            return tirx.if_then_else(keep, x(*index), zero(data.dtype))

        return define(data.shape, element, name="trilu")

    return c.ctx.te(trilu, data, name="trilu")


@converter("EyeLike")
def eye_like(c: Call) -> Operand:
    dtype, shift = c.dtype_attr("dtype", c[0].dtype), int(c.attr("k", 0))
    shape = c[0].shape
    return c.ctx.te(lambda: define(shape, lambda i, j: tirx.EQ(i + shift, j).astype(dtype), name="eye"), name="eye")


@converter("Range")
def range_(c: Call) -> Operand:
    dtype = c[0].dtype
    if c[0].is_float:
        return _float_range(c)
    start, limit, step = (c.ctx.scalars(c[i]).reshape(-1)[0] for i in range(3))
    distance = int_expr(limit) - int_expr(start)
    if not isinstance(step, int):
        backward = int_expr(step) < int_expr(0)
        distance = tirx.Select(backward, -distance, distance)
        stride = tirx.Select(backward, -int_expr(step), int_expr(step))
    else:
        distance, stride = (distance, int_expr(step)) if step > 0 else (-distance, int_expr(-step))
    count = tirx.floordiv(distance + stride - int_expr(1), stride)
    size = c.ctx.dim(c.ctx.symbols.simplify(tirx.max(int_expr(0), count)))

    def arange() -> te.Tensor:
        return define([size], lambda i: (int_expr(start) + i * int_expr(step)).astype(dtype), name="range")

    return c.ctx.te(arange, name="range")


def _float_range(c: Call) -> Operand:
    arrays = [c.constant(i, "a float bound of Range") for i in range(3)]
    start, limit, step = (float(array.reshape(-1)[0]) for array in arrays if array is not None)
    count = max(int(np.ceil((limit - start) / step)), 0)
    return Operand.constant((start + np.arange(count) * step).astype(np.dtype(c[0].dtype)))


@converter("ReverseSequence")
def reverse_sequence(c: Call) -> Operand:
    data, lengths = c[0], c[1]
    time, batch = int(c.attr("time_axis", 0)), int(c.attr("batch_axis", 1))

    def reverse(x: te.Tensor, n: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            count = n(index[batch]).astype("int64")
            place = list(index)
            place[time] = tirx.Select(index[time] < count, count - int_expr(1) - index[time], index[time])
            return x(*place)

        return define(data.shape, element, name="reverse_sequence")

    return c.ctx.te(reverse, data, lengths, name="reverse_sequence")
