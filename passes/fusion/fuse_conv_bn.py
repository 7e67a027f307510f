"""Folding of a batch norm into the adjacent convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Node
from graphopt.passes.matching.affine import (
    CONVOLUTIONS,
    Folded,
    batch_norm,
    fold_after,
    fold_before,
    replace_convolution,
)
from graphopt.passes.matching.match import produced_by
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class FuseConvBn(RewritePass):
    """Fold a batch norm into the weights of the convolution before it, or of the unpadded one after it.

    `BatchNormalization(Conv(x, W, b))` becomes `Conv(x, s*W, s*b + t)` with s = gamma / sqrt(var + epsilon) and t =
    beta - s*mean, computed in float64 and rounded once. ConvTranspose and groups are supported.
    """

    name: ClassVar[str] = "fuse-conv-bn"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("BatchNormalization",)

    def match(self, node: Node, context: PassContext) -> Folded | Miss:
        affine = batch_norm(node)
        if isinstance(affine, Miss):
            return affine
        data = node.inputs[0]
        assert data is not None
        before = produced_by(data, *CONVOLUTIONS)
        if before is not None and data.sole_user is node:
            return fold_after(before, affine, node)
        after = node.output.sole_user
        if after is not None and after.op in CONVOLUTIONS and after.inputs[0] is node.output:
            return fold_before(after, affine, data)
        if before is not None:
            return Miss("the convolution's result is used elsewhere too")
        producer = data.producer
        return Miss(f"it follows {producer.op if producer is not None else 'an input'}, not a convolution")

    def rewrite(self, match: Folded, rewriter: Rewriter) -> None:
        replace_convolution(match, rewriter)
