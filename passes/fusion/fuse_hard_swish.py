"""Recognition of x * hard-sigmoid(x) as HardSwish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import DType, Node
from graphopt.passes.matching.match import NOTHING, below_opset
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.pattern import Capture, Match, Number, Pattern, op
from graphopt.rewriting.values import close


def _is_sixth(found: Match) -> Miss | None:
    line = found.named["line"]
    fits = close(line.attr("alpha", 0.2), 1 / 6, DType.FLOAT) and close(line.attr("beta", 0.5), 0.5, DType.FLOAT)
    return None if fits else Miss("the hard sigmoid is not that of hard swish: alpha 1/6, beta 1/2")


def _is_clipped_sixth(found: Match) -> Miss | None:
    """Decline unless the clipped line and the factor make x/6 + 1/2 from 0 to 1, in whatever steps."""
    factor, slope, offset, top = (found.numbers[name] for name in ("factor", "slope", "offset", "top"))
    wanted = [(factor * top, 1.0), (factor * slope, 1 / 6), (factor * offset, 0.5)]
    return None if all(close(have, want, found["x"].dtype) for have, want in wanted) else NOTHING


_X = Capture("x")
_LINE = Number("slope") * _X + Number("offset")
_HARD_SWISH = {
    "HardSigmoid": Pattern(_X * op.HardSigmoid(_X).named("line"), at="HardSigmoid", check=_is_sixth),
    "Clip": Pattern(
        Number("factor") * _X * op.Clip(_LINE, 0, Number("top")), at="Clip", check=_is_clipped_sixth, near=4
    ),
}


@dataclass(frozen=True)
class FuseHardSwish(RewritePass):
    """Recognize x * HardSigmoid(x) and x * Clip(x + 3, 0, 6) / 6, in any order of factors, as HardSwish."""

    name: ClassVar[str] = "fuse-hard-swish"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("HardSigmoid", "Clip")

    def match(self, node: Node, context: PassContext) -> Match | Miss:
        found = _HARD_SWISH[node.op].match(node)
        if isinstance(found, Miss):
            return found
        if (old := below_opset(context, 22)) is not None:
            return old
        if found["x"].dtype is DType.DOUBLE:
            return Miss("double precision: HardSwish holds its factors in float32")
        return found

    def rewrite(self, match: Match, rewriter: Rewriter) -> None:
        new = rewriter.op(
            "HardSwish",
            [match["x"]],
            types=[match.root.output.type],
            origin=match.nodes,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])
