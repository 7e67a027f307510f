"""x * sigmoid(x) as the operator Swish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import DType, Node, Value
from graphopt.passes.matching.match import ESCAPES, NOTHING, below_opset, escapes, other_input
from graphopt.passes.matching.polynomial import scaled
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Match:
    root: Node
    data: Value
    alpha: float
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class FuseSilu(RewritePass):
    """Recognize x * Sigmoid(alpha * x), SiLU and the sigmoid approximation of GELU, as Swish."""

    name: ClassVar[str] = "fuse-silu"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Sigmoid",)

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        argument = node.inputs[0]
        assert argument is not None
        sources = scaled(argument)
        for user in node.output.users:
            other = other_input(user, node.output) if user.op == "Mul" else None
            for source, alpha, nodes in sources:
                if source is other:
                    return self._checked(context, _Match(user, source, alpha, (*nodes, node, user)))
        return NOTHING

    def _checked(self, context: PassContext, match: _Match) -> _Match | Miss:
        if (old := below_opset(context, 24)) is not None:
            return old
        if escapes(match.nodes, match.root):
            return Miss(ESCAPES)
        # The attribute is a float32.
        if match.data.dtype is DType.DOUBLE and float(np.float32(match.alpha)) != match.alpha:
            return Miss("a factor in double precision")
        return match

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        new = rewriter.op(
            "Swish",
            [match.data],
            {"alpha": match.alpha} if match.alpha != 1 else None,
            types=[match.root.output.type],
            origin=match.nodes,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])
