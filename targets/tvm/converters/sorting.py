"""Operators whose result depends on the order or the number of elements that meet a condition: TopK, NonZero."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.converters.call import Call
from graphopt.targets.tvm.converters.cast import convert
from graphopt.targets.tvm.converters.define import define
from graphopt.targets.tvm.converters.operand import Operand
from graphopt.targets.tvm.converters.registry import converter
from graphopt.targets.tvm.converters.tensors import product, unflatten, wide
from graphopt.targets.tvm.converters.window import int_expr


@converter("TopK")
def top_k(c: Call) -> list[Operand | None]:
    """Each element counts how many stand before it; the one with k before it is the result's element k.

    Quadratic in the length of the axis, but parallel, with nothing but reductions; equal elements keep their order.
    """
    data = c[0]
    axis = c.axis(data.rank, -1)
    count = int(c.attr("k")) if c.version < 10 else c.ctx.scalars(c[1]).reshape(-1)[0]
    largest = bool(c.attr("largest", 1)) or c.version < 11
    sizes = c.ctx.shape([*data.shape[:axis], count, *data.shape[axis + 1 :]])
    kind = wide(data.dtype)

    def before(a: tirx.Expr, b: tirx.Expr, i: Any, j: Any) -> tirx.Expr:
        """Whether element a at place i comes before element b at place j; NaN counts as the largest."""
        more, less = (a > b, b > a) if largest else (a < b, b < a)
        if data.is_float:
            nan_a, nan_b = tirx.isnan(a), tirx.isnan(b)
            only_a, only_b = tirx.And(nan_a, tirx.Not(nan_b)), tirx.And(nan_b, tirx.Not(nan_a))
            first, second = (only_a, only_b) if largest else (only_b, only_a)
            more, less = tirx.Or(more, first), tirx.Or(less, second)
        return tirx.Or(more, tirx.And(tirx.Not(less), i < j))

    def ranks(x: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, data.shape[axis]), "k")

        def element(*index: tirx.Expr) -> tirx.Expr:
            other = x(*index[:axis], k, *index[axis + 1 :]).astype(kind)
            return te.sum(before(other, x(*index).astype(kind), k, index[axis]).astype("int64"), axis=k)

        return define(data.shape, element, name="rank")

    rank = c.ctx.te(ranks, data, name="topk_rank")

    def places(r: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, data.shape[axis]), "k")

        def element(*index: tirx.Expr) -> tirx.Expr:
            hit = tirx.EQ(r(*index[:axis], k, *index[axis + 1 :]), index[axis])
            return te.sum(tirx.Select(hit, k.var.astype("int64"), int_expr(0)), axis=k)

        return define(sizes, element, name="place")

    place = c.ctx.te(places, rank, name="topk_place")

    def pick(x: te.Tensor, p: te.Tensor) -> te.Tensor:
        return define(sizes, lambda *i: x(*i[:axis], p(*i), *i[axis + 1 :]), name="topk_value")

    return [c.ctx.te(pick, data, place, name="topk_value"), place]


@converter("NonZero")
def non_zero(c: Call) -> Operand:
    """Counted first, so that the result's size is known; then the places are written in order."""
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
