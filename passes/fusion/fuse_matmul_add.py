"""Fusion of a MatMul and the Add after it into one Gemm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Node, Value
from graphopt.passes.matching.match import broadcasts_into, numbers, rounded
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.pattern import Capture, Match, Pattern, any_of, op


def _objection(found: Match) -> Miss | None:
    product, bias = found.named["product"], found["bias"]
    factors, result = product.inputs[:2], product.output
    if product.op == "MatMul" and any(f is None or f.rank is None for f in factors):
        return Miss("the rank of a factor is not known")
    if product.op == "MatMul" and any(f is None or f.rank != 2 for f in factors):
        return Miss("the product is not one of two matrices")
    if result.sole_user is not found.root:
        return Miss("the product is used elsewhere too")
    if result.dtype is not None and not result.dtype.is_float:
        return Miss("integers")
    shape = bias.shape if bias.constant is None else bias.constant.shape
    if not broadcasts_into(shape, _product_shape(product)):
        return Miss("the bias is not known to fit the product's shape")
    merged = _merged_bias(product, bias)
    return merged if isinstance(merged, Miss) else None


_A, _B = Capture("A"), Capture("B")
_PRODUCT = any_of(op.MatMul(_A, _B).named("product"), op.Gemm(_A, _B, ...).named("product"))
_BIASED = Pattern(op.Add(_PRODUCT, Capture("bias")), check=_objection)


@dataclass(frozen=True)
class FuseMatmulAdd(RewritePass):
    """Fuse a product of two matrices and the bias added to it into one Gemm, and a second constant bias with the first.

    Matmuls with more than two axes are left alone: Gemm takes matrices, and reshaping around it gains nothing.
    """

    name: ClassVar[str] = "fuse-matmul-add"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Add",)

    def match(self, node: Node, context: PassContext) -> Match | Miss:
        return _BIASED.match(node)

    def rewrite(self, match: Match, rewriter: Rewriter) -> None:
        product = match.named["product"]
        bias = _merged_bias(product, match["bias"])
        assert not isinstance(bias, Miss)
        if isinstance(bias, np.ndarray):
            bias = rewriter.constant(bias, f"{product.name or 'gemm'}_bias")
        kept = {k: v for k, v in product.attributes.items() if k != "beta"}
        new = rewriter.op(
            "Gemm",
            [match["A"], match["B"], bias],
            kept,
            types=[match.root.output.type],
            origin=[product, match.root],
            name=product.name,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])


def _merged_bias(product: Node, bias: Value) -> Value | np.ndarray | Miss:
    """Return `bias`, added to that of a Gemm if it has one already."""
    if product.op == "MatMul" or product.input(2) is None:
        return bias
    first, second = numbers(product.input(2)), numbers(bias)
    if first is None or second is None or bias.constant is None:
        return Miss("the Gemm has a bias already")
    if second.ndim == 0:
        second = second.reshape(1)
    total = first * float(product.attr("beta", 1.0)) + second
    if total.size > max(first.size, second.size):
        return Miss("the two biases together are larger than each")
    array = rounded(total, bias.constant.dtype)
    return Miss("the sum of the biases does not fit its float type") if array is None else array


def _product_shape(product: Node) -> tuple[int | str | None, ...] | None:
    """Return rows and columns, derived from the factors if inference left the product without a shape."""
    first, second = product.inputs[:2]
    assert first is not None
    assert second is not None
    if first.shape is None or second.shape is None or len(first.shape) != 2 or len(second.shape) != 2:
        return product.output.shape
    return first.shape[1 if product.attr("transA", 0) else 0], second.shape[0 if product.attr("transB", 0) else 1]
