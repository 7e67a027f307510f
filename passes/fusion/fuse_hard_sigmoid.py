"""Recognition of a clipped line as HardSigmoid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import DType, Node
from graphopt.passes.matching.match import NOTHING, below_opset
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.pattern import Capture, Match, Number, Pattern, op
from graphopt.rewriting.values import close


def _ends_at_one(found: Match) -> Miss | None:
    """Decline unless the line rises, is half of its maximum at 0, and is scaled to end at 1."""
    dtype = found["x"].dtype
    factor, slope, offset, top = (found.numbers[name] for name in ("factor", "slope", "offset", "top"))
    if top <= 0 or slope <= 0 or not close(offset / top, 0.5, dtype):
        return NOTHING
    if not close(factor * top, 1.0, dtype):
        return NOTHING if close(top, 6.0, dtype) else Miss("the clipped line does not end at 1")
    return None


_CLIPPED = op.Clip(Number("slope") * Capture("x") + Number("offset"), 0, Number("top"))
_HARD_SIGMOID = Pattern(Number("factor") * _CLIPPED, at="Clip", check=_ends_at_one, near=4)


@dataclass(frozen=True)
class FuseHardSigmoid(RewritePass):
    """Recognize Clip(x + 3, 0, 6) / 6, and other lines through 1/2 clipped to 0..1, as HardSigmoid."""

    name: ClassVar[str] = "fuse-hard-sigmoid"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Clip",)

    def match(self, node: Node, context: PassContext) -> Match | Miss:
        found = _HARD_SIGMOID.match(node)
        if isinstance(found, Miss):
            return found
        if (old := below_opset(context, 22)) is not None:
            return old
        if found["x"].dtype is DType.DOUBLE:
            return Miss("double precision: HardSigmoid holds its factors in float32")
        return found

    def rewrite(self, match: Match, rewriter: Rewriter) -> None:
        factor, slope, offset = (match.numbers[name] for name in ("factor", "slope", "offset"))
        new = rewriter.op(
            "HardSigmoid",
            [match["x"]],
            {"alpha": factor * slope, "beta": factor * offset},
            types=[match.root.output.type],
            origin=match.nodes,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])
