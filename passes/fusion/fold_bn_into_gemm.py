"""Folding of a batch norm into an adjacent matmul."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Node
from graphopt.passes.matching.affine import UNREPRESENTABLE, Affine, Folded, batch_norm
from graphopt.passes.matching.match import NOTHING, numbers, produced_by, rounded
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter

PRODUCTS = ("MatMul", "Gemm")


@dataclass(frozen=True)
class FoldBnIntoGemm(RewritePass):
    """Fold a batch norm over the columns of a matrix into the constant weights of the adjacent matmul.

    `BatchNormalization(A @ B + C)` becomes a Gemm with weights B*s and bias C*s + t; before a matmul, the rows of B are
    scaled and t @ B is added to the bias. Matrices only: with more axes, axis 1 is not the matmul's last one.
    """

    name: ClassVar[str] = "fold-bn-into-gemm"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("BatchNormalization",)

    def match(self, node: Node, context: PassContext) -> Folded | Miss:
        data = node.inputs[0]
        assert data is not None
        before, after = produced_by(data, *PRODUCTS), node.output.sole_user
        if after is not None and (after.op not in PRODUCTS or after.inputs[0] is not node.output):
            after = None
        if before is None and after is None:
            return NOTHING
        affine = batch_norm(node)
        if isinstance(affine, Miss):
            return affine
        if data.rank != 2:
            return Miss("the batch-norm's input is not known to be a matrix")
        if before is not None and data.sole_user is node:
            return self._fold_after(before, affine, node)
        if after is not None:
            return self._fold_before(after, affine, node)
        return Miss("the product's result is used elsewhere too")

    def _fold_after(self, product: Node, affine: Affine, root: Node) -> Folded | Miss:
        weight = _weight(product)
        if isinstance(weight, Miss):
            return weight
        bias = _bias(product, weight.shape[1])
        if isinstance(bias, Miss):
            return bias
        return _finished(product, root, weight * affine.scale, bias * affine.scale + affine.shift)

    def _fold_before(self, product: Node, affine: Affine, node: Node) -> Folded | Miss:
        weight = _weight(product)
        if isinstance(weight, Miss):
            return weight
        if product.attr("transA", 0):
            return Miss("the Gemm transposes its first factor")
        if weight.shape[0] != affine.scale.size:
            return Miss("the number of channels differs")
        bias = _bias(product, weight.shape[1])
        if isinstance(bias, Miss):
            return bias
        return _finished(product, product, weight * affine.scale[:, None], bias + affine.shift @ weight, node)

    def rewrite(self, match: Folded, rewriter: Rewriter) -> None:
        product, old = match.layer, match.layer.inputs[1]
        assert old is not None
        assert match.bias is not None
        new = rewriter.op(
            "Gemm",
            [match.data, rewriter.constant(match.weight, old.name), rewriter.constant(match.bias, f"{old.name}_bias")],
            {"transA": 1} if product.attr("transA", 0) else None,
            types=[match.root.output.type],
            origin=[product, match.root],
            name=product.name,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])


def _weight(product: Node) -> np.ndarray | Miss:
    """Return the second factor as the matmul uses it: [K, N], with alpha and transB applied."""
    weight = numbers(product.input(1))
    if weight is None:
        return Miss("the weights of the product are not constant")
    if weight.ndim != 2:
        return Miss("the weights of the product are not a matrix")
    return (weight.T if product.attr("transB", 0) else weight) * float(product.attr("alpha", 1.0))


def _bias(product: Node, columns: int) -> np.ndarray | Miss:
    """Return the bias of a Gemm as one number per column, with beta applied."""
    value = product.input(2) if product.op == "Gemm" else None
    if value is None:
        return np.zeros(columns)
    bias = numbers(value)
    if bias is None:
        return Miss("the bias of the product is not constant")
    if bias.ndim == 2 and bias.shape[0] != 1:
        return Miss("the bias of the product differs from row to row")
    return np.broadcast_to(bias.reshape(-1), (columns,)) * float(product.attr("beta", 1.0))


def _finished(
    product: Node, root: Node, weight: np.ndarray, bias: np.ndarray, source: Node | None = None
) -> Folded | Miss:
    old = product.inputs[1]
    assert old is not None
    assert old.constant is not None
    new_weight, new_bias = rounded(weight, old.constant.dtype), rounded(bias, old.constant.dtype)
    if new_weight is None or new_bias is None:
        return UNREPRESENTABLE
    data = (source or product).inputs[0]
    assert data is not None
    return Folded(product, root, data, new_weight, new_bias)
