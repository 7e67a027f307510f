"""Slices and padding, with numbers or symbolic sizes as bounds."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm.converters.tensors import all_of, where
from graphopt.targets.tvm.converters.window import int_expr
from graphopt.targets.tvm.lowering.call import Call, normal_axis
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter


@converter("Slice")
def slice_(c: Call) -> Operand:
    data = c[0]
    starts, ends, axes, steps = _slice_lists(c)
    begins: list[Any] = [0] * data.rank
    strides = [1] * data.rank
    sizes: list[Dim] = list(data.shape)
    for i, (start, end) in enumerate(zip(starts, ends)):
        axis = normal_axis(axes[i], data.rank) if axes is not None else i
        step = steps[i] if steps is not None else 1
        if not isinstance(step, int) or step == 0:
            raise Declined("the step of a slice is not a known number other than 0")
        begins[axis], sizes[axis] = _slice_range(c.ctx, data.shape[axis], start, end, step)
        strides[axis] = step
    if all(c.ctx.same(a, b) for a, b in zip(sizes, data.shape)) and all(step == 1 for step in strides):
        return data
    shape = c.ctx.shape(sizes)

    def strided(x: te.Tensor) -> te.Tensor:
        return define(shape, lambda *i: x(*[b + j * s for b, j, s in zip(begins, i, strides)]), name="strided_slice")

    return c.ctx.te(strided, data, name="strided_slice")


def _slice_lists(c: Call) -> tuple[list[Any], list[Any], list[int] | None, list[Any] | None]:
    if c.version < 10:
        axes = c.attr("axes")
        return list(c.attr("starts")), list(c.attr("ends")), None if axes is None else list(axes), None
    starts, ends = (list(c.ctx.scalars(c[i]).ravel()) for i in (1, 2))
    given = c.constant(3, "the list of axes")
    steps = None if c.input(4) is None else list(c.ctx.scalars(c[4]).ravel())
    return starts, ends, None if given is None else [int(a) for a in given.ravel()], steps


def _slice_range(ctx: Context, extent: Dim, start: Any, end: Any, step: int) -> tuple[Dim, Dim]:
    """Return the first index and the count of a slice, clamped to the data; backward, a start before it is 0."""
    low, high = (0, extent) if step > 0 else (-1, extent - 1)
    first = _clamped(ctx, start, extent, 0, high)
    last = _clamped(ctx, end, extent, low, high)
    distance = last - first
    if step > 0:
        count = (int_expr(distance) + (step - 1)) // step
    else:
        count = (int_expr(0) - int_expr(distance) + (-step - 1)) // -step
    return ctx.symbols.simplify(first), ctx.symbols.simplify(tirx.max(int_expr(0), count))


def _clamped(ctx: Context, value: Any, extent: Dim, low: Dim, high: Dim) -> Dim:
    """Return an end of a slice: counted from the end if negative, then clamped to `low` and `high`."""
    if isinstance(value, int) and isinstance(extent, int):
        value = value + extent if value < 0 else value
        return min(max(value, int(low)), int(high))
    if isinstance(value, int) and value >= (1 << 31) - 1:
        return high
    if isinstance(value, int) and value <= -(1 << 31) + 1:
        return ctx.symbols.simplify(tirx.min(int_expr(low), int_expr(high)))
    if isinstance(value, int):
        value = extent + value if value < 0 else int_expr(value)
    elif not ctx.symbols.always(value >= int_expr(0)):
        value = tirx.Select(value < int_expr(0), value + int_expr(extent), value)
    value = tirx.max(value, int_expr(low)) if not ctx.symbols.always(value >= int_expr(low)) else value
    return ctx.symbols.simplify(tirx.min(value, int_expr(high)))


@converter("Pad")
def pad(c: Call) -> Operand:
    data = c[0]
    begin, end = _pad_lists(c)
    mode = str(c.attr("mode", "constant"))
    sizes = c.ctx.shape([c.ctx.symbols.simplify(s + b + e) for s, b, e in zip(data.shape, begin, end)])
    if all(isinstance(p, int) and p == 0 for p in [*begin, *end]):
        return data
    fill = _pad_value(c) if mode == "constant" else None
    operands = [data] if fill is None or fill.is_constant else [data, fill]
    constant = fill.array if fill is not None and fill.is_constant else None

    def padded(x: te.Tensor, *rest: te.Tensor) -> te.Tensor:
        if mode == "constant":
            other = tirx.const(constant.reshape(-1)[0].item(), data.dtype) if constant is not None else None

        def element(*index: tirx.Expr) -> tirx.Expr:
            place = [i - b for i, b in zip(index, begin)]
            bounds = [_bounds(i, s, (b, e)) for i, s, b, e in zip(place, data.shape, begin, end)]
            if mode != "constant":
                folded = [_folded(i, s, mode, (b, e)) for i, s, b, e in zip(place, data.shape, begin, end)]
                # A row is copied unchanged between its ends; only these are read from other positions.
                return where(all_of(bounds[-1]), x(*folded[:-1], place[-1]), x(*folded)) if bounds[-1] else x(*folded)
            inside = [bound for of_axis in bounds for bound in of_axis]
            value = other if other is not None else rest[0](*[0] * fill.rank)  # type: ignore[union-attr]
            return where(all_of(inside), x(*place), value)

        return define(sizes, element, name="pad")

    return c.ctx.te(padded, *operands, name="pad")


def _bounds(i: tirx.Expr, size: Dim, pads: tuple[Any, Any]) -> list[tirx.Expr]:
    """Return the conditions, of those that the padding needs, under which a position is inside the data."""
    begin, end = pads
    low = [] if isinstance(begin, int) and begin <= 0 else [i >= int_expr(0)]
    high = [] if isinstance(end, int) and end <= 0 else [i < int_expr(size)]
    return low + high


def _folded(i: tirx.Expr, size: Dim, mode: str, pads: tuple[Any, Any]) -> tirx.Expr:
    """Return where padding of a mode other than constant reads from; reflections repeat as often as needed."""
    if all(isinstance(p, int) and p == 0 for p in pads):
        return i
    extent = int_expr(size)
    last = extent - int_expr(1)
    if mode == "edge":
        return tirx.max(int_expr(0), tirx.min(i, last))
    if mode == "wrap":
        # What negative padding crops is not repeated.
        cut = [int_expr(max(-p, 0)) if isinstance(p, int) else int_expr(0) for p in pads]
        return tirx.floormod(i - cut[0], extent - cut[0] - cut[1]) + cut[0]
    if mode != "reflect":
        raise Declined(f"padding mode {mode!r}")
    if isinstance(size, int) and size == 1:
        return int_expr(0)
    if isinstance(size, int) and all(isinstance(p, int) and p < size for p in pads):
        return last - tirx.abs(last - tirx.abs(i))
    around = tirx.floormod(i, tirx.max(last * int_expr(2), int_expr(1)))
    return tirx.Select(around > last, last * int_expr(2) - around, around)


def _pad_lists(c: Call) -> tuple[list[Any], list[Any]]:
    """Return the padding before and after each axis, numbers or expressions."""
    rank = c[0].rank
    if c.version < 11:
        listed: list[Any] = [int(p) for p in c.attr("pads") or c.attr("paddings")]
    else:
        listed = list(c.ctx.scalars(c[1]).ravel())
    given = c.constant(3, "the list of axes")
    axes = range(rank) if given is None else [normal_axis(int(a), rank) for a in given.ravel()]
    begin: list[Any] = [0] * rank
    end: list[Any] = [0] * rank
    half = len(listed) // 2
    for i, axis in enumerate(axes):
        begin[axis], end[axis] = listed[i], listed[half + i]
    return begin, end


def _pad_value(c: Call) -> Operand:
    if c.version < 11:
        return c.ctx.constant([c.attr("value", 0.0)], c[0].dtype)
    operand = c.input(2)
    return c.ctx.constant([0], c[0].dtype) if operand is None else operand
