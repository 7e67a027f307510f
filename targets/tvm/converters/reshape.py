"""Operators that keep every element in place and change only axes: reshaping, squeezing, flattening."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm.converters.half import moved
from graphopt.targets.tvm.converters.tensors import flatten, product, unflatten
from graphopt.targets.tvm.converters.window import int_expr
from graphopt.targets.tvm.lowering.call import Call, normal_axis
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter


def reshape_to(ctx: Context, data: Operand, sizes: Sequence[Dim]) -> Operand:
    """Return the elements of `data` in row-major order with shape `sizes`, which must have the same product."""
    sizes = ctx.shape(sizes)
    if data.is_constant and all(isinstance(s, int) for s in sizes):
        plain = [int(size) for size in sizes]
        return data.derived(plain, ("reshape", *plain), lambda array: array.reshape(plain))
    if len(sizes) == data.rank and all(ctx.same(a, b) for a, b in zip(sizes, data.shape)):
        return data
    groups = _groups(ctx, data.shape, sizes)

    def reshape(x: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            place: list[Any] = []
            for (a, b), (p, q) in groups:
                if b - a == q - p == 1:
                    place.append(index[p])
                else:
                    place += unflatten(flatten(index[p:q], sizes[p:q]), data.shape[a:b])
            return x(*place)

        return define(sizes, element, name="reshape")

    return ctx.te(reshape, data, name="reshape")


def _groups(ctx: Context, old: Sequence[Dim], new: Sequence[Dim]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return runs of axes with the same product on both sides, as short as provable, for less index arithmetic."""
    groups, a, p = [], 0, 0
    while a < len(old) or p < len(new):
        ends = [(i, j) for i in range(a, len(old) + 1) for j in range(p, len(new) + 1) if (i, j) != (a, p)]
        ends.sort(key=sum)
        i, j = next(((i, j) for i, j in ends if ctx.same(product(old[a:i]), product(new[p:j]))), (len(old), len(new)))
        groups.append(((a, i), (p, j)))
        a, p = i, j
    return groups


@converter("Reshape")
def reshape(c: Call) -> Operand:
    listed = list(c.attr("shape")) if c.version < 5 else list(c.ctx.scalars(c[1]).ravel())
    sizes = _target(c.ctx, c[0].shape, listed, bool(c.attr("allowzero", 0)))
    return moved(c.ctx, c[0], lambda data: reshape_to(c.ctx, data, sizes))


def _target(ctx: Context, old: Sequence[Dim], listed: list[Any], allow_zero: bool) -> list[Dim]:
    """Return the new shape: 0 copies the old size (unless `allow_zero`), -1 takes the remainder."""
    new: list[Any] = []
    wild = []
    for axis, entry in enumerate(listed):
        if isinstance(entry, int):
            if entry == 0 and not allow_zero:
                if axis >= len(old):
                    raise Declined("a 0 in the shape is beyond the input's rank")
                entry = old[axis]
            elif entry == -1:
                wild.append(axis)
                entry = 1
        elif not ctx.symbols.always(entry >= 0):
            same = old[axis] if axis < len(old) else 0
            known = entry if allow_zero else tirx.Select(tirx.EQ(entry, int_expr(0)), int_expr(same), entry)
            new.append((entry, known))
            continue
        new.append(entry)
    unknown = [axis for axis, entry in enumerate(new) if isinstance(entry, tuple)]
    if unknown:
        return _target_at_run_time(old, new, wild)
    if len(wild) > 1:
        raise Declined("more than one -1 in the shape")
    if wild:
        new[wild[0]] = _left_over(ctx, old, [s for axis, s in enumerate(new) if axis != wild[0]])
    elif not ctx.same(product(old), product(new)):
        ctx.check_equal(product(old), product(new))
    return new


def _target_at_run_time(old: Sequence[Dim], new: list[Any], wild: list[int]) -> list[Dim]:
    """Return the new shape like `_target`, with entries that are only known at run time and may be -1."""
    total = product(old)
    parts = [tirx.Select(e[0] < int_expr(0), int_expr(1), e[1]) if isinstance(e, tuple) else e for e in new]
    rest = tirx.floordiv(int_expr(total), tirx.max(int_expr(product(parts)), int_expr(1)))
    sizes: list[Dim] = []
    for axis, entry in enumerate(new):
        if axis in wild:
            sizes.append(rest)
        elif isinstance(entry, tuple):
            sizes.append(tirx.Select(entry[0] < int_expr(0), rest, entry[1]))
        else:
            sizes.append(entry)
    return sizes


def _left_over(ctx: Context, old: Sequence[Dim], new: Sequence[Dim]) -> Dim:
    """Return the size that makes the product of `new` that of `old`, simplified by cancelling equal sizes."""
    above, below = list(old), []
    for size in new:
        match = next((i for i, other in enumerate(above) if ctx.same(size, other)), None)
        if match is None:
            below.append(size)
        else:
            above.pop(match)
    have, want = ctx.symbols.expand(product(above)), ctx.symbols.expand(product(below))
    if isinstance(want, int) and want == 0:
        raise Declined("-1 in a shape of zero elements")
    if isinstance(have, int) and isinstance(want, int):
        if have % want:
            raise Declined(f"{have} elements cannot be divided into parts of {want}")
        return have // want
    rest = ctx.symbols.simplify(tirx.floordiv(int_expr(have), int_expr(want)))
    if not ctx.same(have, rest * want):
        ctx.check_equal(have, rest * want)
    return rest


@converter("Flatten")
def flatten_axes(c: Call) -> Operand:
    axis = int(c.attr("axis", 1))
    axis = axis + c[0].rank if axis < 0 else axis
    simplify = c.ctx.symbols.simplify
    return reshape_to(c.ctx, c[0], [simplify(product(c[0].shape[:axis])), simplify(product(c[0].shape[axis:]))])


@converter("Squeeze")
def squeeze(c: Call) -> Operand:
    axes = c.ints(1, "axes", "the list of axes")
    if axes is None:
        if any(not isinstance(size, int) for size in c[0].shape):
            raise Declined("which axes have size 1 is not known at compile time")
        chosen = {axis for axis, size in enumerate(c[0].shape) if size == 1}
    else:
        chosen = {normal_axis(axis, c[0].rank) for axis in axes}
    wanted = [1 if axis in chosen else size for axis, size in enumerate(c[0].shape)]
    data = c.ctx.require(c[0], wanted)
    return reshape_to(c.ctx, data, [size for axis, size in enumerate(c[0].shape) if axis not in chosen])


@converter("Unsqueeze")
def unsqueeze(c: Call) -> Operand:
    axes = c.ints(1, "axes", "the list of axes")
    if axes is None:
        raise Declined("axes are missing")
    rank = c[0].rank + len(axes)
    chosen = {normal_axis(axis, rank) for axis in axes}
    sizes = iter(c[0].shape)
    return reshape_to(c.ctx, c[0], [1 if axis in chosen else next(sizes) for axis in range(rank)])
