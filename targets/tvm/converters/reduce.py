"""Reductions over axes: sums, extremes, norms, positions of extremes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from graphopt.targets.tvm.converters.cast import cast_to
from graphopt.targets.tvm.converters.elementwise import maximum, minimum
from graphopt.targets.tvm.converters.reshape import reshape_to
from graphopt.targets.tvm.converters.tensors import any_of, elementwise, wide
from graphopt.targets.tvm.converters.window import int_expr
from graphopt.targets.tvm.kernels.common.computes import lowest
from graphopt.targets.tvm.lowering.call import Call, normal_axis
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Dim, Operand, Scaled
from graphopt.targets.tvm.lowering.registry import converter

_MOST = {"int8": 1 << 22, "uint8": 1 << 22, "int16": 1 << 15}
"""The number of integers whose sum does not overflow 32 bits, nor does the difference of two such sums."""
Reducer = Callable[..., tirx.Expr]


def highest(dtype: str) -> tirx.Expr:
    """Return an upper bound of every value of the type."""
    if dtype == "bool":
        return tirx.const(True, dtype)
    return tirx.const(np.inf, dtype) if dtype.startswith("float") else tirx.max_value(dtype)


_max = te.comm_reducer(maximum, lowest, name="max")


_min = te.comm_reducer(minimum, highest, name="min")


multiply_all = te.comm_reducer(lambda a, b: a * b, lambda t: tirx.const(1, t), name="product")


def reduced(
    ctx: Context,
    data: Operand,
    axes: Sequence[int],
    reducer: Reducer,
    *,
    keep: bool,
    before: Callable[[tirx.Expr], tirx.Expr] | None = None,
    after: Callable[[tirx.Expr], tirx.Expr] | None = None,
    dtype: str | None = None,
    name: str,
) -> Operand:
    """Compute `after(reducer(before(x)))` over `axes`; 16-bit floats are accumulated in float32 and rounded once.

    `dtype`: that of the result if it is not that of the data.
    """
    kind = wide(data.dtype)
    axes = sorted(axes)
    sizes = [1 if i in axes else size for i, size in enumerate(data.shape) if keep or i not in axes]
    if any(isinstance(data.shape[axis], int) and data.shape[axis] == 0 for axis in axes):
        return _of_no_elements(ctx, sizes, data.dtype, reducer, after)
    open_sizes = [size for axis in axes if not ctx.symbols.is_positive(size := data.shape[axis])]
    is_empty = any_of([tirx.EQ(size, int_expr(0)) for size in open_sizes])

    def compute(x: te.Tensor) -> te.Tensor:
        loops = {axis: te.reduce_axis((0, data.shape[axis]), f"k{axis}") for axis in axes}

        def element(*index: tirx.Expr) -> tirx.Expr:
            rest = iter(i for position, i in enumerate(index) if not keep or position not in axes)
            place = [loops[axis] if axis in loops else next(rest) for axis in range(data.rank)]
            value = x(*place).astype(kind)
            return reducer(before(value) if before else value, axis=list(loops.values()))

        total = define(sizes, element, name=name)
        if after is None and kind == data.dtype and not open_sizes:
            return total

        def finish(*index: tirx.Expr) -> tirx.Expr:
            # If there is nothing to reduce, the loop that initializes the result does not run.
            value = tirx.Select(is_empty, _neutral(reducer, kind), total(*index)) if open_sizes else total(*index)
            return (after(value) if after else value).astype(dtype or data.dtype)

        return define(sizes, finish, name=f"{name}_result")

    return ctx.te(compute, data, name=name)


def _of_no_elements(
    ctx: Context, sizes: Sequence[Dim], dtype: str, reducer: Reducer, after: Callable[[tirx.Expr], tirx.Expr] | None
) -> Operand:
    """Return the reduction of zero elements."""
    value = _neutral(reducer, wide(dtype))
    result = (after(value) if after else value).astype(dtype)
    return ctx.te(lambda: define(sizes, lambda *i: result, name="empty"), name="empty")


def _neutral(reducer: Reducer, kind: str) -> tirx.Expr:
    """Return the neutral element of a reduction, its result for zero elements."""
    neutral = {multiply_all: tirx.const(1, kind), _max: lowest(kind), _min: highest(kind)}
    neutral |= {te.max: lowest(kind), te.min: highest(kind)}
    return neutral.get(reducer, tirx.const(0, kind))


def _axes(c: Call) -> list[int] | None:
    """Return the axes to reduce; None if the node reduces nothing."""
    listed = c.ints(1, "axes", "the list of axes")
    if not listed:
        if c.attr("noop_with_empty_axes", 0):
            return None
        return list(range(c[0].rank))
    return [normal_axis(axis, c[0].rank) for axis in listed]


def _count(data: Operand, axes: Sequence[int], kind: str) -> tirx.Expr:
    """Return the number of elements of a mean, and 1 for none: ONNX Runtime's mean of zero elements is 0."""
    count: Any = tirx.const(1, "int64")
    for axis in axes:
        count = count * data.shape[axis]
    return tirx.max(count, tirx.const(1, "int64")).astype(kind)


def _reduction(op: str, reducer: Reducer, before: Any = None, after: Any = None) -> None:
    @converter(op)
    def convert(c: Call) -> Operand:
        axes = _axes(c)
        data = c[0]
        if axes is None:
            if before is None and after is None:
                return data
            axes = []
        if not axes:
            kind = wide(data.dtype)
            steps = [step for step in (before, after) if step]
            function = lambda x: functools.reduce(lambda v, step: step(v), steps, x.astype(kind))  # noqa: E731
            return elementwise(c.ctx, function, [data], data.dtype, op.lower())
        keep = bool(c.attr("keepdims", 1))
        if data.dtype == "bool":
            wider = cast_to(c.ctx, data, "int8")
            result = reduced(c.ctx, wider, axes, reducer, keep=keep, name=op.lower())
            return elementwise(c.ctx, lambda x: x > tirx.const(0, "int8"), [result], "bool", "truth")
        return reduced(c.ctx, data, axes, reducer, keep=keep, before=before, after=after, name=op.lower())


_reduction("ReduceSum", te.sum)


_reduction("ReduceProd", multiply_all)


_reduction("ReduceSumSquare", te.sum, before=lambda x: x * x)


_reduction("ReduceL1", te.sum, before=lambda x: tirx.abs(x) if "uint" not in str(x.ty.dtype) else x)


_reduction("ReduceL2", te.sum, before=lambda x: x * x, after=lambda x: _in_floats(tirx.sqrt, x))


_reduction("ReduceLogSum", te.sum, after=lambda x: _in_floats(tirx.log, x))


_reduction("ReduceMax", _max)


_reduction("ReduceMin", _min)


def _in_floats(function: Callable[[tirx.Expr], tirx.Expr], x: tirx.Expr) -> tirx.Expr:
    """Apply `function` to a float; for an integer, compute in float64 and round towards zero."""
    kind = str(x.ty.dtype)
    return function(x) if kind.startswith("float") else function(x.astype("float64")).astype(kind)


@converter("ReduceMean")
def reduce_mean(c: Call) -> Operand:
    axes = _axes(c)
    data = c[0]
    if not axes:
        return data

    keep = bool(c.attr("keepdims", 1))
    mean = None if data.scaled is None else _mean_of_integers(c.ctx, data.scaled, axes, keep)
    if mean is not None:
        return mean

    def divide(total: tirx.Expr) -> tirx.Expr:
        kind = str(total.ty.dtype)
        count = _count(data, axes, kind)
        return total / count if data.is_float else tirx.truncdiv(total, tirx.max(count, tirx.const(1, kind)))

    return reduced(c.ctx, data, axes, te.sum, keep=keep, after=divide, name="mean")


def _mean_of_integers(ctx: Context, data: Scaled, axes: Sequence[int], keep: bool) -> Operand | None:
    """Return the mean of dequantized integers from their exact sum; None if that may overflow.

    The floats are then not stored, nor even computed.
    """
    count = 1
    for axis in axes:
        size = data.integers.shape[axis]
        count *= size if isinstance(size, int) else 0
    if not 0 < count <= _MOST.get(data.integers.dtype, 0):
        return None

    def after(total: tirx.Expr) -> tirx.Expr:
        centered = (total - tirx.const(data.zero * count, "int32")).astype("float32")
        return centered * tirx.const(data.scale / count, "float32")

    whole = functools.partial(tirx.Cast, "int32")
    return reduced(ctx, data.integers, axes, te.sum, keep=keep, before=whole, after=after, dtype="float32", name="mean")


@converter("ReduceLogSumExp")
def reduce_log_sum_exp(c: Call) -> Operand:
    """Compute log(sum(exp(x - max))) + max, because the plain form overflows."""
    axes = _axes(c)
    data = c[0]
    if not axes:
        return data
    keep = bool(c.attr("keepdims", 1))
    kind = wide(data.dtype) if data.is_float else "float64"
    top = reduced(c.ctx, data, axes, _max, keep=True, name="max")

    def finite(x: tirx.Expr) -> tirx.Expr:
        """Return a finite shift: a maximum of -inf (empty sum) or +inf would give inf - inf, and 0 works as well."""
        x = x.astype(kind)
        return tirx.Select(tirx.isfinite(x), x, tirx.const(0, kind))

    shifted = elementwise(c.ctx, lambda x, m: tirx.exp(x.astype(kind) - finite(m)), [data, top], kind, "exp")
    total = reduced(c.ctx, shifted, axes, te.sum, keep=True, name="sum")

    def joined(s: tirx.Expr, m: tirx.Expr) -> tirx.Expr:
        return (tirx.log(s) + finite(m)).astype(data.dtype)

    result = elementwise(c.ctx, joined, [total, top], data.dtype, "logsumexp")
    if keep:
        return result
    return reshape_to(c.ctx, result, [size for axis, size in enumerate(data.shape) if axis not in axes])


def _position(
    c: Call, better: Callable[[tirx.Expr, tirx.Expr], tirx.Expr], worst: Callable[[str], tirx.Expr]
) -> Operand:
    data = c[0]
    axis = c.axis(data.rank)
    keep, last = bool(c.attr("keepdims", 1)), bool(c.attr("select_last_index", 0))
    kind = wide(data.dtype)

    def combine(a: Any, b: Any) -> tuple[tirx.Expr, tirx.Expr]:
        later = b[0] > a[0] if last else b[0] < a[0]
        take = tirx.Or(better(b[1], a[1]), tirx.And(tirx.EQ(b[1], a[1]), later))
        take = tirx.Or(tirx.And(take, b[0] >= tirx.const(0, "int64")), a[0] < tirx.const(0, "int64"))
        return tirx.Select(take, b[0], a[0]), tirx.Select(take, b[1], a[1])

    reducer = te.comm_reducer(combine, lambda i, v: (tirx.const(-1, i), worst(v)), name="position")
    sizes = [1 if i == axis else size for i, size in enumerate(data.shape) if keep or i != axis]

    def compute(x: te.Tensor) -> te.Tensor:
        loop = te.reduce_axis((0, data.shape[axis]), "k")

        def element(*index: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
            rest = [i for position, i in enumerate(index) if not keep or position != axis]
            value = x(*rest[:axis], loop, *rest[axis:]).astype(kind)
            return reducer((loop.var.astype("int64"), value), axis=loop)

        pair = define(sizes, element, name="position")
        return define(sizes, lambda *i: pair[0](*i), name="position_index")

    return c.ctx.te(compute, data, name=c.node.op_type.lower())


@converter("ArgMax")
def arg_max(c: Call) -> Operand:
    return _position(c, lambda a, b: a > b, lowest)


@converter("ArgMin")
def arg_min(c: Call) -> Operand:
    return _position(c, lambda a, b: a < b, highest)
