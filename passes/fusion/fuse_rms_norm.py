"""Recognition of decomposed RMS normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Node
from graphopt.passes.fusion._normalization import (
    Norm,
    check,
    norm_of,
    normalized,
    replace_norm,
    root_patterns,
    with_scale_and_bias,
)
from graphopt.passes.matching.match import NOTHING, below_opset, produced_by
from graphopt.passes.matching.means import last_axes, mean, square
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.pattern import Match


def _norm(found: Match) -> Norm | Miss:
    squares = mean(found["variance"])
    squared = None if squares is None else square(squares.data)
    if squares is None or squared is None:
        return NOTHING
    data, power = squared
    subtract = produced_by(data, "Sub")
    if subtract is not None and mean(subtract.inputs[1]) is not None:
        return NOTHING
    axis = last_axes(squares.axes, data.rank)
    if axis is None:
        return Miss("not the last axes are normalized")
    return norm_of(found, data, axis, (*squares.nodes, power), () if found["dividend"] is data else None)


def _objection(found: Match) -> Miss | None:
    norm = _norm(found)
    return norm if isinstance(norm, Miss) else None


_NORMALIZED = root_patterns(normalized, _objection)


@dataclass(frozen=True)
class FuseRmsNorm(RewritePass):
    """Recognize x / sqrt(mean(x²) + epsilon) * scale over the last axes as RMSNormalization.

    The root may be a divisor, a reciprocal or a power; half-precision data that is normalized in float32 between two
    casts is supported. Layer normalization, in which the mean is subtracted from x, is left alone.
    """

    name: ClassVar[str] = "fuse-rms-norm"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Sqrt", "Pow")

    def match(self, node: Node, context: PassContext) -> Norm | Miss:
        found = _NORMALIZED[node.op].match(node)
        if isinstance(found, Miss):
            return found
        norm = _norm(found)
        if isinstance(norm, Miss):
            return norm
        return below_opset(context, 23) or check(with_scale_and_bias(norm, False), context)

    def rewrite(self, match: Norm, rewriter: Rewriter) -> None:
        replace_norm(match, "RMSNormalization", rewriter)
