"""Operators that move elements (transpose, concatenate, slice, repeat), and operators that return or fill shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from graphopt.ir.shape_arithmetic import shape_of, size_of
from graphopt.targets.tvm.converters.host import operand_of
from graphopt.targets.tvm.converters.reshape import reshape_to
from graphopt.targets.tvm.converters.tensors import where
from graphopt.targets.tvm.converters.widened import widen_parts
from graphopt.targets.tvm.converters.window import int_expr
from graphopt.targets.tvm.lowering.call import Call, normal_axis
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter
from graphopt.targets.tvm.lowering.scalars import Scalars
from graphopt.targets.tvm.relax_passes.concat import CONCAT


def copy(ctx: Context, operand: Operand) -> Operand:
    """Return the same elements in separate memory."""

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
    return operand_of(shape_of(c.node, c[0].shape))


@converter("Size")
def size(c: Call) -> Operand:
    return operand_of(size_of(c[0].shape, Scalars(c.ctx.symbols)))


@converter("ConstantOfShape")
def constant_of_shape(c: Call) -> Operand:
    fill = c.attr("value")
    value = np.zeros(1, np.float32) if fill is None else fill.numpy().ravel()[:1]
    sizes = c.ctx.shape(list(c.ctx.scalars(c[0])))
    return filled(c.ctx, sizes, value)


def filled(ctx: Context, sizes: Sequence[Dim], value: np.ndarray) -> Operand:
    """Return a tensor of `sizes` filled with the one element of `value`."""
    dtype = str(value.dtype)
    ctx.check_dtype(dtype)
    element = tirx.const(value.ravel()[0].item(), dtype)
    return ctx.te(lambda: define(sizes, lambda *i: element, name="fill"), name="fill")


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
    # Either may be 1 at run time; any other difference is an error then.
    result = tirx.Select(tirx.EQ(int_expr(want), int_expr(1)), have, int_expr(want))
    ctx.check_equal(tirx.Select(tirx.EQ(have, int_expr(1)), result, have), result)
    return result


def _source(ctx: Context, have: Dim, size: Dim, index: Any) -> Any:
    if isinstance(have, int) and have == 1:
        return 0
    return index if ctx.same(have, size) else tirx.Select(tirx.EQ(have, int_expr(1)), tirx.const(0, "int64"), index)


@converter("Transpose")
def transpose(c: Call) -> Operand:
    order = [int(axis) for axis in c.attr("perm") or range(c[0].rank)[::-1]]
    return transposed(c.ctx, c[0], order)


def transposed(ctx: Context, data: Operand, order: Sequence[int]) -> Operand:
    """Return the operand with output axis i being input axis `order[i]`."""
    order = [normal_axis(axis, data.rank) for axis in order]
    if order == sorted(order):
        return data
    if data.is_constant:
        sizes = [int(data.shape[axis]) for axis in order]
        return data.derived(sizes, ("transpose", *order), lambda array: np.transpose(array, order))
    moved = [axis for axis in order if not _is_one(data.shape[axis])]
    sizes = [data.shape[axis] for axis in order]
    if moved == sorted(moved):
        return reshape_to(ctx, data, sizes)

    def transpose(x: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            return x(*[index[order.index(axis)] for axis in range(len(order))])

        return define(sizes, element, name="transpose")

    return ctx.te(transpose, data, name="transpose")


def _is_one(size: Dim) -> bool:
    return isinstance(size, int) and size == 1


@converter("Concat")
def concat(c: Call) -> Operand:
    axis = c.axis(c[0].rank, 1 if c.version < 4 else 0)
    operands = [operand for operand in c.inputs if operand is not None]
    result = concatenated(c.ctx, operands, axis)
    widen_parts(c.ctx, result, operands, lambda parts: concatenated(c.ctx, parts, axis))
    return result


def concatenated(ctx: Context, operands: list[Operand], axis: int) -> Operand:
    """Return the operands one after the other along `axis`; their other sizes must agree."""
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

    return ctx.te(concat, *parts, name="concatenate", attributes={CONCAT: axis})


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
        part = c.ctx.symbols.simplify(tirx.floordiv(int_expr(extent + (count - 1)), int_expr(count)))
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
    """Return elements `begin`, `begin + step`, ... (`count` of them) along one axis; nothing is clamped."""
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
    depth = c.ctx.symbols.simplify(tirx.floordiv(int_expr(channels), int_expr(b * b)))
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
    half = [c.ctx.symbols.simplify(tirx.floordiv(int_expr(size), int_expr(b))) for size in (h, w)]
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
