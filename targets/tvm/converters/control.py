"""Control flow: `If`, decided during lowering if the condition is known, and at run time otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from graphopt.ir import Graph
from graphopt.targets.tvm.converters.reshape import reshape_to
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter


@converter("If")
def if_(c: Call) -> list[Operand | None]:
    then, other = c.attr("then_branch"), c.attr("else_branch")
    condition = c[0]
    if condition.is_constant and condition.array is not None:
        return _inline(c.ctx, then if bool(condition.array.reshape(-1)[0]) else other)
    flag = c.ctx.tensor(reshape_to(c.ctx, condition, []))
    made_then, made_else = _branch(c.ctx, then), _branch(c.ctx, other)
    if made_then is None or made_else is None:
        return []
    for a, b in zip(made_then[1], made_else[1]):
        if a.dtype != b.dtype or a.rank != b.rank:
            raise Declined("the branches return results of different element types or ranks")
    result = c.ctx.emit(relax.If(flag, made_then[0], made_else[0]))
    pairs = enumerate(zip(made_then[1], made_else[1]))
    return [_joined(c.ctx, relax.TupleGetItem(result, i), a, b) for i, (a, b) in pairs]


def _inline(ctx: Context, graph: Graph) -> list[Operand | None]:
    return ctx.lower_nodes(graph)


def _branch(ctx: Context, graph: Graph) -> tuple[relax.SeqExpr, Sequence[Operand]] | None:
    """Return a branch as an expression whose value is the tuple of its results; None if a node was declined."""
    with ctx.branch() as blocks:
        results = ctx.lower_nodes(graph)
        made = [result for result in results if result is not None]
        exprs = [ctx.tensor(result) for result in made]
    if len(made) != len(results):
        return None
    return relax.SeqExpr(blocks, relax.Tuple(exprs)), made


def _joined(ctx: Context, expr: relax.Expr, a: Operand, b: Operand) -> Operand:
    """Return a result of either branch; sizes that differ between them, or are known only inside, become new ones."""
    shape: list[Dim] = []  # sizes
    for left, right in zip(a.shape, b.shape):
        outer = ctx.symbols.expand(left)
        known = ctx.same(left, right) and ctx.symbols.is_visible(outer)
        shape.append(ctx.dim(outer) if known else ctx.symbols.fresh("d", late=True))
    value = ctx.builder.match_cast(ctx.emit(expr), relax.TensorType(shape, a.dtype))
    ctx.barrier()
    return Operand(a.dtype, shape, expr=value)
