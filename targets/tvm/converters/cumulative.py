"""Cumulative sums and products along an axis."""

from __future__ import annotations

from collections.abc import Callable

from tvm import te, tirx

from graphopt.targets.tvm.converters.reduce import Reducer, multiply_all
from graphopt.targets.tvm.converters.reshape import reshape_to
from graphopt.targets.tvm.converters.tensors import product, wide
from graphopt.targets.tvm.kernels.scan.compute import Scan
from graphopt.targets.tvm.kernels.scan.cpu import scan
from graphopt.targets.tvm.lowering.call import Call, normal_axis
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.operand import Operand
from graphopt.targets.tvm.lowering.registry import converter


@converter("CumSum")
def cum_sum(c: Call) -> Operand:
    return _cumulative(c, te.sum, lambda a, b: a + b, 0)


@converter("CumProd")
def cum_prod(c: Call) -> Operand:
    return _cumulative(c, multiply_all, lambda a, b: a * b, 1)


def _cumulative(c: Call, reducer: Reducer, combine: Callable[[tirx.Expr, tirx.Expr], tirx.Expr], start: int) -> Operand:
    data = c[0]
    listed = c.constant(1, "the axis")
    assert listed is not None
    axis = normal_axis(int(listed.reshape(-1)[0]), data.rank)
    kind = wide(data.dtype)
    neutral = tirx.const(start, kind)
    exclusive, reverse = bool(c.attr("exclusive", 0)), bool(c.attr("reverse", 0))
    name = c.node.op_type.lower()
    if c.ctx.machine is None:
        return c.ctx.te(_prefixes(data, axis, reducer, neutral, exclusive, reverse), data, name=name)
    sizes = [product(data.shape[:axis]), data.shape[axis], product(data.shape[axis + 1 :])]
    spec = Scan(combine, neutral, kind, c.ctx.machine.lanes(kind), exclusive, reverse)
    result = c.ctx.te(lambda x: scan(x, spec), reshape_to(c.ctx, data, sizes), name=name)
    return reshape_to(c.ctx, result, data.shape)


def _prefixes(
    data: Operand, axis: int, reducer: Reducer, neutral: tirx.Expr, exclusive: bool, reverse: bool
) -> Callable[[te.Tensor], te.Tensor]:
    """Reduce the whole prefix of each element: quadratic, but a definition that GPUs can run in parallel."""
    kind = str(neutral.ty.dtype)

    def compute(x: te.Tensor) -> te.Tensor:
        loop = te.reduce_axis((0, data.shape[axis]), "k")

        def element(*index: tirx.Expr) -> tirx.Expr:
            i = index[axis]
            if reverse:
                inside = loop > i if exclusive else loop >= i
            else:
                inside = loop < i if exclusive else loop <= i
            value = x(*index[:axis], loop, *index[axis + 1 :]).astype(kind)
            return reducer(tirx.if_then_else(inside, value, neutral), axis=loop)

        total = define(data.shape, element, name="cumulative")
        if kind == data.dtype:
            return total
        return define(data.shape, lambda *i: total(*i).astype(data.dtype), name="cumulative_result")

    return compute
