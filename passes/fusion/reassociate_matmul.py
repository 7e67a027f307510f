"""Reordering of chains of matmuls to minimize the number of operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Node, Value
from graphopt.passes.matching.affine import UNREPRESENTABLE
from graphopt.passes.matching.chains import Chain, Plan, Span, best_plan, chain_of, cost_now, sizes_of
from graphopt.passes.matching.match import NOTHING, numbers, produced_by, rounded
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Match:
    root: Node
    chain: Chain
    plan: Plan
    ahead: dict[Span, np.ndarray]


@dataclass(frozen=True)
class ReassociateMatmul(RewritePass):
    """Reorder a chain of matmuls where that takes fewer operations, multiplying constants ahead of time.

    `(x @ A) @ B` with constant A and B becomes `x @ (A @ B)` if the product is no larger than both together. Other
    products are reordered if that takes no more operations whatever the unknown sizes. All factors but one must be
    matrices.
    """

    name: ClassVar[str] = "reassociate-matmul"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("MatMul",)

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        user = node.output.sole_user
        if user is not None and user.op == "MatMul":
            return NOTHING  # handled at the end of the chain
        chain = chain_of(node)
        if len(chain.factors) < 3:
            shared = any(produced_by(value, "MatMul") is not None for value in node.inputs)
            return Miss("a product in the chain is used elsewhere too") if shared else NOTHING
        if node.output.dtype is None or not node.output.dtype.is_float:
            return Miss("the factors are not known to be floats")
        sizes = sizes_of(chain.factors)
        if isinstance(sizes, Miss):
            return sizes
        plan = best_plan(sizes, [_is_free(value) for value in chain.factors])
        now = cost_now(chain, sizes)
        if plan.cost == now or plan.cost[0] > now[0] or plan.cost[1] > now[1]:
            return Miss("the chain is in its best order")
        ahead = {}
        for span in plan.spans(len(chain.factors)):
            if span in plan.ready:
                product = _product(chain.factors[span[0] : span[1] + 1])
                if product is None:
                    return UNREPRESENTABLE
                ahead[span] = product
        return _Match(node, chain, plan, ahead)

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        factors, root = match.chain.factors, match.root
        whole = (0, len(factors) - 1)
        built: dict[Span, Value] = {(i, i): value for i, value in enumerate(factors)}
        for span in match.plan.spans(len(factors)):
            if span in match.ahead:
                built[span] = rewriter.constant(match.ahead[span], factors[span[0]].name)
                continue
            cut = match.plan.cuts[span]
            pair = [built[span[0], cut], built[cut + 1, span[1]]]
            types = [root.output.type] if span == whole else None
            built[span] = rewriter.op("MatMul", pair, types=types, origin=match.chain.nodes, before=root).output
        rewriter.replace(root, [built[whole]])


def _is_free(value: Value) -> bool:
    """Return whether a factor is a constant that becomes unused once it is multiplied with its neighbour."""
    return value.constant is not None and len(value.uses) == 1 and not value.is_graph_output


def _product(factors: tuple[Value, ...]) -> np.ndarray | None:
    """The product of constants, computed in float64 and rounded once."""
    first, *others = [numbers(value) for value in factors]
    assert first is not None
    result = first
    for array in others:
        assert array is not None
        result = result @ array
    constant = factors[0].constant
    assert constant is not None
    return rounded(result, constant.dtype)
