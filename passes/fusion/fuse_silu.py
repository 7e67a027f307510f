"""Recognition of x * sigmoid(x) as Swish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import DType, Node
from graphopt.passes.matching.match import below_opset
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.pattern import Capture, Match, Number, Pattern, op

_X = Capture("x")
_SILU = Pattern(_X * op.Sigmoid(Number("alpha") * _X), at="Sigmoid")


@dataclass(frozen=True)
class FuseSilu(RewritePass):
    """Recognize x * Sigmoid(alpha * x), SiLU and the sigmoid approximation of GELU, as Swish."""

    name: ClassVar[str] = "fuse-silu"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Sigmoid",)

    def match(self, node: Node, context: PassContext) -> Match | Miss:
        found = _SILU.match(node)
        if isinstance(found, Miss):
            return found
        if (old := below_opset(context, 24)) is not None:
            return old
        # The attribute is a float32.
        alpha = found.numbers["alpha"]
        if found["x"].dtype is DType.DOUBLE and float(np.float32(alpha)) != alpha:
            return Miss("a factor in double precision")
        return found

    def rewrite(self, match: Match, rewriter: Rewriter) -> None:
        alpha = match.numbers["alpha"]
        new = rewriter.op(
            "Swish",
            [match["x"]],
            {"alpha": alpha} if alpha != 1 else None,
            types=[match.root.output.type],
            origin=match.nodes,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])
