"""Folding of multiplications and additions of per-channel constants into the batch norm before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Node
from graphopt.passes.matching.affine import UNREPRESENTABLE, batch_norm, elementwise
from graphopt.passes.matching.match import NOTHING, numbers, produced_by, rounded
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Match:
    norm: Node
    root: Node
    gamma: np.ndarray
    beta: np.ndarray


@dataclass(frozen=True)
class FoldAffineIntoBn(RewritePass):
    """Fold Mul, Add, Sub and Div by scalar or per-channel constants, and Neg, into the batch norm before them.

    Networks converted from frameworks in which scale and shift are a separate layer have these after each batch norm.
    """

    name: ClassVar[str] = "fold-affine-into-bn"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Mul", "Add", "Sub", "Div", "Neg")

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        for data in node.inputs[:2]:
            norm = produced_by(data, "BatchNormalization")
            if data is not None and norm is not None and data.index == 0:
                return self._fold(norm, node)
        return NOTHING

    def _fold(self, norm: Node, root: Node) -> _Match | Miss:
        gamma, beta = numbers(norm.input(1)), numbers(norm.input(2))
        dtype = None if norm.inputs[2] is None else norm.inputs[2].dtype
        rank = norm.output.rank
        if gamma is None or beta is None or dtype is None or rank is None:
            return Miss("scale and shift of the batch-norm are not constant, or its rank is not known")
        affine = elementwise(root, norm.output, gamma.size, rank)
        if isinstance(affine, Miss):
            return affine
        # Only to know that it is in inference mode and has finite parameters.
        inference = batch_norm(norm)
        if isinstance(inference, Miss):
            return inference
        if norm.output.sole_user is not root:
            return Miss("the batch-norm's result is used elsewhere too")
        new_gamma = rounded(gamma * affine.scale, dtype)
        new_beta = rounded(beta * affine.scale + affine.shift, dtype)
        if new_gamma is None or new_beta is None:
            return UNREPRESENTABLE
        return _Match(norm, root, new_gamma, new_beta)

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        norm = match.norm
        assert norm.inputs[1] is not None
        assert norm.inputs[2] is not None
        gamma = rewriter.constant(match.gamma, norm.inputs[1].name)
        beta = rewriter.constant(match.beta, norm.inputs[2].name)
        new = rewriter.op(
            "BatchNormalization",
            [norm.inputs[0], gamma, beta, *norm.inputs[3:]],
            dict(norm.attributes),
            types=[match.root.output.type],
            origin=[norm, match.root],
            name=norm.name,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])
