"""Folding of multiplications and additions of per-channel constants into the batch norm beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Node, Value
from graphopt.passes.matching.affine import UNREPRESENTABLE, batch_norm, elementwise
from graphopt.passes.matching.match import NOTHING, numbers, produced_by, rounded
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter

_STEPS = ("Mul", "Add", "Sub", "Div", "Neg")


@dataclass(frozen=True)
class _Match:
    """A batch norm of `data` that replaces `first` and `root`; `mean` is None if it stays."""

    norm: Node
    first: Node
    root: Node
    data: Value
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray | None = None


@dataclass(frozen=True)
class FoldAffineIntoBn(RewritePass):
    """Fold Mul, Add, Sub and Div by scalar or per-channel constants, and Neg, into the batch norm beside them.

    Networks converted from frameworks in which scale and shift are a separate layer have these after each batch norm;
    what multiplies by the scales of a quantized convolution comes before one.
    """

    name: ClassVar[str] = "fold-affine-into-bn"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = (*_STEPS, "BatchNormalization")

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        if node.op == "BatchNormalization":
            return _fold_before(node)
        for data in node.inputs[:2]:
            norm = produced_by(data, "BatchNormalization")
            if data is not None and norm is not None and data.index == 0:
                return _fold_after(norm, node)
        return NOTHING

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        norm = match.norm
        parameters = list(norm.inputs[1:])
        for place, array in enumerate((match.gamma, match.beta, match.mean)):
            old = parameters[place]
            assert old is not None
            parameters[place] = old if array is None else rewriter.constant(array, old.name)
        new = rewriter.op(
            "BatchNormalization",
            [match.data, *parameters],
            dict(norm.attributes),
            types=[match.root.output.type],
            origin=[match.first, match.root],
            name=norm.name,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])


def _fold_after(norm: Node, root: Node) -> _Match | Miss:
    """Fold the node after a batch norm."""
    gamma, beta = numbers(norm.input(1)), numbers(norm.input(2))
    dtype = None if norm.inputs[2] is None else norm.inputs[2].dtype
    rank, data = norm.output.rank, norm.inputs[0]
    if gamma is None or beta is None or dtype is None or rank is None or data is None:
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
    return _Match(norm, norm, root, data, new_gamma, new_beta)


def _fold_before(norm: Node) -> _Match | Miss:
    """Fold the node before a batch norm: the mean becomes part of the shift, so that nothing is divided."""
    middle, gamma = norm.inputs[0], numbers(norm.input(1))
    step = None if middle is None else middle.producer
    if middle is None or step is None or step.op not in _STEPS or middle.rank is None:
        return NOTHING
    dtype, inference = middle.dtype, batch_norm(norm)
    if dtype is None or isinstance(inference, Miss) or gamma is None:
        return NOTHING
    if any(value is None or value.dtype is not dtype for value in norm.inputs[1:]):
        return Miss("the parameters of the batch-norm have another type")
    for data in step.inputs[:2]:
        if data is None or data.rank != middle.rank or data.constant is not None:
            continue
        affine = elementwise(step, data, gamma.size, middle.rank)
        if isinstance(affine, Miss):
            return affine
        if middle.sole_user is not norm:
            return Miss("what the batch-norm reads is used elsewhere too")
        new_gamma = rounded(gamma * affine.scale, dtype)
        new_beta = rounded(inference.shift + inference.scale * affine.shift, dtype)
        if new_gamma is None or new_beta is None:
            return UNREPRESENTABLE
        return _Match(norm, step, norm, data, new_gamma, new_beta, np.zeros_like(new_gamma))
    return NOTHING
