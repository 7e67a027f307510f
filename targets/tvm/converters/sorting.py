"""Operators whose result depends on the order of elements or on how many satisfy a condition: TopK, NonZero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.converters.cast import convert
from graphopt.targets.tvm.converters.reshape import reshape_to
from graphopt.targets.tvm.converters.tensors import product, unflatten, wide
from graphopt.targets.tvm.converters.window import int_expr
from graphopt.targets.tvm.kernels.topk.compute import Order
from graphopt.targets.tvm.kernels.topk.cpu import top_k as heap_top_k
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter


@converter("TopK")
def top_k(c: Call) -> list[Operand | None]:
    data = c[0]
    axis = c.axis(data.rank, -1)
    count = int(c.attr("k")) if c.version < 10 else c.ctx.scalars(c[1]).reshape(-1)[0]
    length = data.shape[axis]
    if isinstance(count, int) and isinstance(length, int) and not 0 <= count <= length:
        raise Declined(f"the first {count} of {length} elements")
    c.ctx.check_positive(length - count + 1)
    sizes = c.ctx.shape([*data.shape[:axis], count, *data.shape[axis + 1 :]])
    order = Order(wide(data.dtype), bool(c.attr("largest", 1)) or c.version < 11)
    if c.ctx.machine is None:
        return _ranked(c.ctx, data, axis, sizes, order)
    outer, inner = c.ctx.shape([product(data.shape[:axis]), product(data.shape[axis + 1 :])])
    rows = reshape_to(c.ctx, data, [outer, length, inner])
    found = c.ctx.te_many(lambda x: heap_top_k(x, sizes[axis], order), rows, name="topk")
    return [reshape_to(c.ctx, result, sizes) for result in found]


def _ranked(ctx: Context, data: Operand, axis: int, sizes: Sequence[Dim], order: Order) -> list[Operand | None]:
    """Count, for each element, how many come before it; the one with k before it is the result's element k.

    Quadratic in the length of the axis, but a definition that GPUs can run in parallel; equal elements keep their
    order.
    """

    def ranks(x: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, data.shape[axis]), "k")

        def element(*index: tirx.Expr) -> tirx.Expr:
            other, own = x(*index[:axis], k, *index[axis + 1 :]), x(*index)
            return te.sum(order.before(other, k, own, index[axis]).astype("int64"), axis=k)

        return define(data.shape, element, name="rank")

    rank = ctx.te(ranks, data, name="topk_rank")

    def places(r: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, data.shape[axis]), "k")

        def element(*index: tirx.Expr) -> tirx.Expr:
            hit = tirx.EQ(r(*index[:axis], k, *index[axis + 1 :]), index[axis])
            return te.sum(tirx.Select(hit, k.var.astype("int64"), int_expr(0)), axis=k)

        return define(sizes, element, name="place")

    place = ctx.te(places, rank, name="topk_place")

    def pick(x: te.Tensor, p: te.Tensor) -> te.Tensor:
        return define(sizes, lambda *i: x(*i[:axis], p(*i), *i[axis + 1 :]), name="topk_value")

    return [ctx.te(pick, data, place, name="topk_value"), place]


@converter("NonZero")
def non_zero(c: Call) -> Operand:
    """Count first, so that the result's size is known; then write the positions in order."""
    data = c[0]
    rank = max(data.rank, 1)
    shape = data.shape or (1,)

    def count(x: te.Tensor) -> te.Tensor:
        loops = [te.reduce_axis((0, size), f"k{i}") for i, size in enumerate(data.shape)]
        if not loops:
            return define((1,), lambda _: convert(x(), "bool").astype("int64"), name="count")
        return define((1,), lambda _: te.sum(convert(x(*loops), "bool").astype("int64"), axis=loops), name="count")

    total = c.ctx.dim(c.ctx.scalars(c.ctx.te(count, data, name="nonzero_count"))[0])

    def places(x: te.Tensor) -> list[te.Tensor]:
        def body(ins: Any, outs: Any) -> Any:
            (source,), (out, cursor) = ins, outs
            with IRBuilder() as builder, T.seq_scope():
                T.buffer_store(cursor, int_expr(0), [int_expr(0)])
                with T.serial(int_expr(0), int_expr(product(shape))) as i:
                    at = unflatten(i, shape)
                    with T.If(convert(source[tuple(at[: data.rank])], "bool")), T.Then(), T.seq_scope():
                        for axis in range(rank):
                            T.buffer_store(out, at[axis], [int_expr(axis), cursor[int_expr(0)]])
                        T.buffer_store(cursor, cursor[int_expr(0)] + int_expr(1), [int_expr(0)])
            return builder.get()

        return te.extern(
            [[int_expr(rank), int_expr(total)], [int_expr(1)]],
            [x],
            body,
            dtype=["int64", "int64"],
            name="nonzero",
        )

    return c.ctx.te_many(places, data, name="nonzero")[0]
