"""Folding of multiplications and additions of per-channel constants into the adjacent convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Node
from graphopt.passes.matching.affine import (
    CONVOLUTIONS,
    Folded,
    elementwise,
    fold_after,
    fold_before,
    input_channels,
    output_channels,
    replace_convolution,
)
from graphopt.passes.matching.match import NOTHING, produced_by
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.values import constant_shape


@dataclass(frozen=True)
class FuseConvAffine(RewritePass):
    """Fold Mul, Add, Sub and Div by scalar or per-channel constants, and Neg, into the adjacent convolution.

    After a convolution this is always possible; before one only if it pads nothing, or if the step only scales.
    """

    name: ClassVar[str] = "fuse-conv-affine"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Mul", "Add", "Sub", "Div", "Neg")

    def match(self, node: Node, context: PassContext) -> Folded | Miss:
        reason = NOTHING
        for data in node.inputs[:2]:
            conv = produced_by(data, *CONVOLUTIONS)
            shape = None if conv is None else constant_shape(conv.input(1))
            if data is None or conv is None or shape is None:
                continue
            affine = elementwise(node, data, output_channels(conv, shape), len(shape))
            if isinstance(affine, Miss):
                reason = affine
            elif data.sole_user is not node:
                reason = Miss("the convolution's result is used elsewhere too")
            else:
                return fold_after(conv, affine, node)
        found = self._before(node)
        return reason if found is NOTHING else found

    def _before(self, node: Node) -> Folded | Miss:
        conv = node.output.sole_user
        if conv is None or conv.op not in CONVOLUTIONS or conv.inputs[0] is not node.output:
            return NOTHING
        shape = constant_shape(conv.input(1))
        if shape is None:
            return NOTHING
        channels = input_channels(conv, shape)
        for data in node.inputs[:2]:
            # Of the two operands only the one with the convolution's rank and channels can be the data: a constant
            # that is expanded by the other operand would change what the convolution sees.
            if data is None or data.constant is not None or data.rank != len(shape):
                continue
            if data.shape is None or data.shape[1] != channels:
                continue
            affine = elementwise(node, data, channels, len(shape))
            return affine if isinstance(affine, Miss) else fold_before(conv, affine, data)
        return NOTHING

    def rewrite(self, match: Folded, rewriter: Rewriter) -> None:
        replace_convolution(match, rewriter)
