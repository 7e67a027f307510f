"""Softmax and its relatives, and normalization by a norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm.converters.reduce import Reducer, _position, reduced
from graphopt.targets.tvm.converters.tensors import elementwise, wide
from graphopt.targets.tvm.kernels.common.computes import lowest
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter


def softmax_over(ctx: Context, data: Operand, axes: Sequence[int], *, log: bool = False) -> Operand:
    """Emit softmax (or its logarithm) over some axes together, as one kernel of four stages, in the wide type."""
    kind = wide(data.dtype)
    axes = sorted(axes)
    kept: list[Dim] = [1 if i in axes else size for i, size in enumerate(data.shape)]

    def compute(x: te.Tensor) -> te.Tensor:
        def over(reducer: Reducer, source: Callable[..., tirx.Expr], name: str) -> te.Tensor:
            loops = {axis: te.reduce_axis((0, data.shape[axis]), f"k{axis}") for axis in axes}

            def element(*index: tirx.Expr) -> tirx.Expr:
                place = [loops.get(axis, i) for axis, i in enumerate(index)]
                return reducer(source(*place), axis=list(loops.values()))

            return define(kept, element, name=name)

        def row(index: Sequence[Any]) -> list[Any]:
            return [0 if axis in axes else i for axis, i in enumerate(index)]

        top = over(te.max, lambda *i: x(*i).astype(kind), "softmax_max")
        if log:
            total = over(te.sum, lambda *i: tirx.exp(x(*i).astype(kind) - top(*row(i))), "softmax_sum")
            return define(
                data.shape,
                lambda *i: (x(*i).astype(kind) - top(*row(i)) - tirx.log(total(*row(i)))).astype(data.dtype),
                name="log_softmax",
            )
        exp = define(data.shape, lambda *i: tirx.exp(x(*i).astype(kind) - top(*row(i))), name="softmax_exp")
        total = over(te.sum, lambda *i: exp(*i), "softmax_sum")
        return define(data.shape, lambda *i: (exp(*i) / total(*row(i))).astype(data.dtype), name="softmax_norm")

    return ctx.te(compute, data, name="log_softmax" if log else "softmax")


@converter("Softmax", "LogSoftmax")
def softmax_flattened(c: Call) -> Operand:
    """Lower softmax before opset 13: everything from `axis` on is one row."""
    axis = c.axis(c[0].rank, 1)
    return softmax_over(c.ctx, c[0], range(axis, c[0].rank), log=c.node.op_type == "LogSoftmax")


@converter("Softmax", "LogSoftmax", since=13)
def softmax(c: Call) -> Operand:
    return softmax_over(c.ctx, c[0], [c.axis(c[0].rank, -1)], log=c.node.op_type == "LogSoftmax")


@converter("Hardmax", since=13)
def hardmax(c: Call) -> Operand:
    """Return 1 at the first maximum along the axis, 0 elsewhere."""
    data = c[0]
    axis = c.axis(data.rank, -1)
    best = _position(_Keep(c, axis), lambda a, b: a > b, lowest)

    def compute(where: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            place = [tirx.IntImm("int64", 0) if i == axis else v for i, v in enumerate(index)]
            return tirx.EQ(where(*place), index[axis]).astype("float32").astype(data.dtype)

        return define(data.shape, element, name="hardmax")

    return c.ctx.te(compute, best, name="hardmax")


class _Keep(Call):
    """The same call for `_position`: keeps the axis, takes the first index."""

    __slots__ = ("_axis",)

    def __init__(self, c: Call, axis: int) -> None:
        super().__init__(c.ctx, c.node, c.inputs, c.version)
        self._axis = axis

    def attr(self, name: str, default: Any = None) -> Any:
        return {"axis": self._axis, "keepdims": 1, "select_last_index": 0}.get(name, default)


@converter("LpNormalization")
def lp_normalization(c: Call) -> Operand:
    data = c[0]
    axis, order = c.axis(data.rank, -1), int(c.attr("p", 2))
    if order not in (1, 2):
        raise Declined(f"a norm of order {order}")
    square = (lambda x: x * x) if order == 2 else tirx.abs
    norm = reduced(
        c.ctx, data, [axis], te.sum, keep=True, before=square, after=tirx.sqrt if order == 2 else None, name="norm"
    )
    kind = wide(data.dtype)

    def divide(x: tirx.Expr, n: tirx.Expr) -> tirx.Expr:
        x, n = x.astype(kind), n.astype(kind)
        empty = tirx.EQ(n, tirx.const(0, kind))
        return tirx.Select(empty, tirx.const(0, kind), x / tirx.Select(empty, tirx.const(1, kind), n))

    return elementwise(c.ctx, divide, [data, norm], data.dtype, "lp_normalize")
