"""Operators that move elements or rename axes: reshaping, transposing, joining and cutting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from graphopt.targets.tvm.converters.call import Call, normal_axis
from graphopt.targets.tvm.converters.context import Context
from graphopt.targets.tvm.converters.define import define
from graphopt.targets.tvm.converters.host import objects
from graphopt.targets.tvm.converters.operand import Dim, Operand
from graphopt.targets.tvm.converters.registry import Declined, converter
from graphopt.targets.tvm.converters.tensors import flatten, product, unflatten, where


def copy(ctx: Context, operand: Operand) -> Operand:
    """The same elements in memory of their own."""

    def identity(x: te.Tensor) -> te.Tensor:
        return define(operand.shape, lambda *i: x(*i), name="copy")

    return ctx.te(identity, operand, name="copy")


@converter("Identity")
def identity(c: Call) -> Operand:
    return c[0]


@converter("Dropout")
def dropout(c: Call) -> list[Operand | None]:
    training = c.constant(2, "training_mode")
    if training is not None and bool(training.item()) and c.version >= 12:
        ratio = c.constant(1, "ratio")
        if ratio is None or ratio.item() != 0:
            raise Declined("training mode drops elements at random")
    mask = None
    if c.wants(1):
        dtype = "bool" if c.version >= 10 else c[0].dtype
        shape = c[0].shape
        mask = c.ctx.te(lambda: define(shape, lambda *i: tirx.const(1, dtype), name="mask"), name="mask")
    return [c[0], mask]


@converter("Constant")
def constant(c: Call) -> Operand:
    tensor = c.node.constant_value
    if tensor is None:
        raise Declined("a sparse or referenced constant")
    return Operand(tensor.dtype.text, tensor.shape, read=tensor.numpy, name=c.node.output.name)


@converter("Shape")
def shape(c: Call) -> Operand:
    start, end = c.attr("start", 0), c.attr("end", c[0].rank)
    sizes = objects(None, (c[0].rank,))
    sizes[:] = c[0].shape
    return Operand.symbolic(sizes[slice(start, end)], "int64")


@converter("Size")
def size(c: Call) -> Operand:
    return Operand.symbolic(objects(c.ctx.symbols.simplify(product(c[0].shape))), "int64")


@converter("ConstantOfShape")
def constant_of_shape(c: Call) -> Operand:
    fill = c.attr("value")
    value = np.zeros(1, np.float32) if fill is None else fill.numpy().ravel()[:1]
    sizes = c.ctx.shape(list(c.ctx.scalars(c[0])))
    return filled(c.ctx, sizes, value)


def filled(ctx: Context, sizes: Sequence[Dim], value: np.ndarray) -> Operand:
    """A tensor of `sizes` with the one element of `value` everywhere."""
    dtype = str(value.dtype)
    ctx.check_dtype(dtype)
    element = tirx.const(value.ravel()[0].item(), dtype)
    return ctx.te(lambda: define(sizes, lambda *i: element, name="fill"), name="fill")


def reshape_to(ctx: Context, data: Operand, sizes: Sequence[Dim]) -> Operand:
    """The elements of `data` in row-major order as `sizes`, which must have the same product."""
    sizes = ctx.shape(sizes)
    if data.is_constant and all(isinstance(s, int) for s in sizes):
        array = data.array
        assert array is not None
        return Operand.constant(array.reshape(sizes), data.name)
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
    """Runs of axes with the same product on both sides, as short as can be proven: less index arithmetic."""
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
    return reshape_to(c.ctx, c[0], _target(c.ctx, c[0].shape, listed, bool(c.attr("allowzero", 0))))


def _target(ctx: Context, old: Sequence[Dim], listed: list[Any], allow_zero: bool) -> list[Dim]:
    """The new shape: 0 copies the old size (unless `allow_zero`), -1 takes what is left."""
    new: list[Any] = []
    wild = []
    for axis, entry in enumerate(listed):
        if isinstance(entry, int):
            if entry == 0 and not allow_zero:
                if axis >= len(old):
                    raise Declined("a 0 in the shape stands beyond the input's rank")
                entry = old[axis]
            elif entry == -1:
                wild.append(axis)
                entry = 1
        elif not ctx.symbols.always(entry >= 0):
            same = old[axis] if axis < len(old) else 0
            known = entry if allow_zero else tirx.Select(tirx.EQ(entry, _i64(0)), _i64(same), entry)
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


def _i64(value: Dim) -> tirx.Expr:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def _target_at_run_time(old: Sequence[Dim], new: list[Any], wild: list[int]) -> list[Dim]:
    """As `_target`, with entries whose value, -1 perhaps, is only known when the code runs."""
    total = product(old)
    parts = [tirx.Select(e[0] < _i64(0), _i64(1), e[1]) if isinstance(e, tuple) else e for e in new]
    rest = tirx.floordiv(_i64(total), tirx.max(_i64(product(parts)), _i64(1)))
    sizes: list[Dim] = []
    for axis, entry in enumerate(new):
        if axis in wild:
            sizes.append(rest)
        elif isinstance(entry, tuple):
            sizes.append(tirx.Select(entry[0] < _i64(0), rest, entry[1]))
        else:
            sizes.append(entry)
    return sizes


def _left_over(ctx: Context, old: Sequence[Dim], new: Sequence[Dim]) -> Dim:
    """What size makes the product of `new` that of `old`; equal sizes are cancelled so that it stays simple."""
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
    rest = ctx.symbols.simplify(tirx.floordiv(_i64(have), _i64(want)))
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
            raise Declined("which axes have size 1 is not known before running")
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


@converter("Expand")
def expand(c: Call) -> Operand:
    wanted = list(c.ctx.scalars(c[1]).ravel())
    data = c[0]
    rank = max(len(wanted), data.rank)
    wanted = [1] * (rank - len(wanted)) + wanted
    old: list[Dim] = [1] * (rank - data.rank) + list(data.shape)
    sizes = c.ctx.shape([_expanded(c.ctx, have, want) for have, want in zip(old, wanted)])
    if rank == data.rank and all(c.ctx.same(a, b) for a, b in zip(sizes, data.shape)):
        return data

    def expand(x: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            tail = zip(data.shape, sizes[rank - data.rank :], index[rank - data.rank :])
            return x(*[_source(c.ctx, have, size, i) for have, size, i in tail])

        return define(sizes, element, name="expand")

    return c.ctx.te(expand, data, name="expand")


def _expanded(ctx: Context, have: Dim, want: Any) -> Dim:
    if (isinstance(want, int) and want == 1) or ctx.same(have, want):
        return have
    if isinstance(have, int):
        if have == 1:
            return want
        if isinstance(want, int):
            raise Declined(f"a size of {have} cannot be expanded to {want}")
        return have
    # Either may be 1 when the code runs; anything else that differs is an error there.
    result = tirx.Select(tirx.EQ(_i64(want), _i64(1)), have, _i64(want))
    ctx.check_equal(tirx.Select(tirx.EQ(have, _i64(1)), result, have), result)
    return result


def _source(ctx: Context, have: Dim, size: Dim, index: Any) -> Any:
    if isinstance(have, int) and have == 1:
        return 0
    return index if ctx.same(have, size) else tirx.Select(tirx.EQ(have, _i64(1)), tirx.const(0, "int64"), index)


@converter("Transpose")
def transpose(c: Call) -> Operand:
    order = [int(axis) for axis in c.attr("perm") or range(c[0].rank)[::-1]]
    return transposed(c.ctx, c[0], order)


def transposed(ctx: Context, data: Operand, order: Sequence[int]) -> Operand:
    """The operand with output axis i being input axis `order[i]`."""
    order = [normal_axis(axis, data.rank) for axis in order]
    if order == sorted(order):
        return data
    if data.is_constant:
        sizes = [data.shape[axis] for axis in order]
        return Operand(data.dtype, sizes, read=lambda: _reordered(data, order), name=data.name)
    moved = [axis for axis in order if not _is_one(data.shape[axis])]
    sizes = [data.shape[axis] for axis in order]
    if moved == sorted(moved):
        return reshape_to(ctx, data, sizes)

    def transpose(x: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            return x(*[index[order.index(axis)] for axis in range(len(order))])

        return define(sizes, element, name="transpose")

    return ctx.te(transpose, data, name="transpose")


def _reordered(data: Operand, order: Sequence[int]) -> np.ndarray:
    array = data.array
    assert array is not None
    return np.transpose(array, order)


def _is_one(size: Dim) -> bool:
    return isinstance(size, int) and size == 1


@converter("Concat")
def concat(c: Call) -> Operand:
    axis = c.axis(c[0].rank, 1 if c.version < 4 else 0)
    return concatenated(c.ctx, [operand for operand in c.inputs if operand is not None], axis)


def concatenated(ctx: Context, operands: list[Operand], axis: int) -> Operand:
    """The operands one behind the other along `axis`; their other sizes must agree."""
    operands = [o for o in operands if not (isinstance(o.shape[axis], int) and o.shape[axis] == 0)] or operands[:1]
    if len(operands) == 1:
        return operands[0]
    first = next((o for o in operands if all(isinstance(d, int) for d in o.shape)), operands[0])
    parts = []
    for operand in operands:
        wanted = [*first.shape[:axis], operand.shape[axis], *first.shape[axis + 1 :]]
        parts.append(ctx.require(operand, wanted))
    ends: list[Dim] = [0]
    for part in parts:
        ends.append(ctx.symbols.simplify(ends[-1] + part.shape[axis]))
    sizes = ctx.shape([*first.shape[:axis], ends[-1], *first.shape[axis + 1 :]])

    def concat(*tensors: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            def read(part: int) -> tirx.Expr:
                return tensors[part](*index[:axis], index[axis] - ends[part], *index[axis + 1 :])

            result = read(len(tensors) - 1)
            for part in range(len(tensors) - 2, -1, -1):
                result = where(index[axis] < ends[part + 1], read(part), result)
            return result

        return define(sizes, element, name="concatenate")

    return ctx.te(concat, *parts, name="concatenate")


@converter("Split")
def split(c: Call) -> list[Operand | None]:
    axis = c.axis(c[0].rank)
    extent = c[0].shape[axis]
    count = len(c.node.outputs)
    sizes: list[Any]
    if c.attr("split") is not None:
        sizes = list(c.attr("split"))
    elif c.input(1) is not None:
        sizes = list(c.ctx.scalars(c[1]).ravel())
    else:
        count = int(c.attr("num_outputs", count))
        part = c.ctx.symbols.simplify(tirx.floordiv(_i64(extent + (count - 1)), _i64(count)))
        sizes = [part] * (count - 1)
        sizes.append(c.ctx.symbols.simplify(extent - part * (count - 1)))
    begin: Dim = 0
    results: list[Operand | None] = []
    for size_ in sizes:
        results.append(cut(c.ctx, c[0], axis, begin, 1, size_))
        begin = c.ctx.symbols.simplify(begin + size_)
    if not c.ctx.same(begin, extent):
        c.ctx.check_equal(begin, extent)
    return results


def cut(ctx: Context, data: Operand, axis: int, begin: Dim, step: Dim, count: Dim) -> Operand:
    """Elements `begin`, `begin + step`, ... (`count` of them) along one axis; nothing is clamped."""
    sizes = ctx.shape([*data.shape[:axis], count, *data.shape[axis + 1 :]])

    def split(x: te.Tensor) -> te.Tensor:
        return define(sizes, lambda *i: x(*i[:axis], i[axis] * step + begin, *i[axis + 1 :]), name="strided_slice")

    return ctx.te(split, data, name="strided_slice")


@converter("Tile")
def tile(c: Call) -> Operand:
    data = c[0]
    if c.version < 6:
        raise Declined("Tile before opset 6")
    repeats = list(c.ctx.scalars(c[1]).ravel())
    sizes = c.ctx.shape([c.ctx.symbols.simplify(size * n) for size, n in zip(data.shape, repeats)])

    def tile(x: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            pairs = zip(index, data.shape, repeats)
            return x(*[i if _is_one(n) else tirx.indexmod(i, extent) for i, extent, n in pairs])

        return define(sizes, element, name="tile")

    return c.ctx.te(tile, data, name="tile")


@converter("DepthToSpace")
def depth_to_space(c: Call) -> Operand:
    n, channels, h, w = c[0].shape
    b = int(c.attr("blocksize"))
    depth = c.ctx.symbols.simplify(tirx.floordiv(_i64(channels), _i64(b * b)))
    column_first = c.attr("mode", "DCR") == "CRD"
    sizes = c.ctx.shape([n, depth, h * b, w * b])

    def depth_to_space(x: te.Tensor) -> te.Tensor:
        def element(i: Any, ch: Any, y: Any, z: Any) -> tirx.Expr:
            block = tirx.indexmod(y, b) * b + tirx.indexmod(z, b)
            channel = ch * (b * b) + block if column_first else block * depth + ch
            return x(i, channel, tirx.indexdiv(y, b), tirx.indexdiv(z, b))

        return define(sizes, element, name="depth_to_space")

    return c.ctx.te(depth_to_space, c[0], name="depth_to_space")


@converter("SpaceToDepth")
def space_to_depth(c: Call) -> Operand:
    n, channels, h, w = c[0].shape
    b = int(c.attr("blocksize"))
    column_first = c.attr("mode", "DCR") == "CRD"
    half = [c.ctx.symbols.simplify(tirx.floordiv(_i64(size), _i64(b))) for size in (h, w)]
    sizes = c.ctx.shape([n, channels * (b * b), *half])

    def space_to_depth(x: te.Tensor) -> te.Tensor:
        def element(i: Any, ch: Any, y: Any, z: Any) -> tirx.Expr:
            if column_first:
                block, channel = tirx.indexmod(ch, b * b), tirx.indexdiv(ch, b * b)
            else:
                block, channel = tirx.indexdiv(ch, channels), tirx.indexmod(ch, channels)
            return x(i, channel, y * b + tirx.indexdiv(block, b), z * b + tirx.indexmod(block, b))

        return define(sizes, element, name="space_to_depth")

    return c.ctx.te(space_to_depth, c[0], name="space_to_depth")
