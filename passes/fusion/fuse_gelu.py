"""Recognition of decomposed GELU, with Erf or Tanh."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Node
from graphopt.passes.matching.match import below_opset
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.pattern import Capture, Match, Pattern, op

_X = Capture("x")
_ROOT2, _FACTOR = math.sqrt(2), math.sqrt(2 / math.pi)
_ERF = op.Erf((_X / _ROOT2).expect("the argument of Erf is not x / sqrt(2)"))
_TANH = op.Tanh(_FACTOR * (_X + 0.044715 * _X**3))
_GELU = {
    "Erf": Pattern((_X / 2 * (1 + _ERF)).expect("what follows the Erf is not x/2 * (1 + result)"), at="Erf"),
    "Tanh": Pattern((_X / 2 * (1 + _TANH)).expect("what follows the Tanh is not x/2 * (1 + result)"), at="Tanh"),
}


@dataclass(frozen=True)
class FuseGelu(RewritePass):
    """Recognize x/2 * (1 + erf(x / sqrt 2)), and its tanh approximation, in any order of factors, as Gelu."""

    name: ClassVar[str] = "fuse-gelu"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Erf", "Tanh")

    def match(self, node: Node, context: PassContext) -> Match | Miss:
        found = _GELU[node.op].match(node)
        return found if isinstance(found, Miss) else below_opset(context, 20) or found

    def rewrite(self, match: Match, rewriter: Rewriter) -> None:
        new = rewriter.op(
            "Gelu",
            [match["x"]],
            {"approximate": "tanh" if any(node.op == "Tanh" for node in match.nodes) else "none"},
            types=[match.root.output.type],
            origin=match.nodes,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])
