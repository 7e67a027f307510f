"""Recognition of decomposed RMS normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Node
from graphopt.passes.fusion._normalization import (
    Norm,
    check,
    inverse_root,
    normalized,
    replace_norm,
    with_scale_and_bias,
)
from graphopt.passes.matching.match import NOTHING, below_opset, produced_by
from graphopt.passes.matching.means import last_axes, mean, square
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


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
        inverse = inverse_root(node)
        squares = None if inverse is None else mean(inverse.variance)
        squared = None if squares is None else square(squares.data)
        if inverse is None or squares is None or squared is None:
            return NOTHING
        data, power = squared
        subtract = produced_by(data, "Sub")
        if subtract is not None and mean(subtract.inputs[1]) is not None:
            return NOTHING
        if (old := below_opset(context, 23)) is not None:
            return old
        axis = last_axes(squares.axes, data.rank)
        if axis is None:
            return Miss("not the last axes are normalized")
        nodes = (*squares.nodes, power)
        norm = normalized(inverse, data, axis, nodes, lambda value: () if value is data else None)
        return norm if isinstance(norm, Miss) else check(with_scale_and_bias(norm, False), context)

    def rewrite(self, match: Norm, rewriter: Rewriter) -> None:
        replace_norm(match, "RMSNormalization", rewriter)
