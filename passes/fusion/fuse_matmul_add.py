"""Fusion of a MatMul and the Add after it into one Gemm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Node, Value
from graphopt.passes.matching.match import NOTHING, broadcasts_into, numbers, operands, produced_by, rounded
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Match:
    product: Node
    root: Node
    bias: Value | np.ndarray


@dataclass(frozen=True)
class FuseMatmulAdd(RewritePass):
    """Fuse a product of two matrices and the bias added to it into one Gemm, and a second constant bias with the first.

    Matmuls with more than two axes are left alone: Gemm takes matrices, and reshaping around it gains nothing.
    """

    name: ClassVar[str] = "fuse-matmul-add"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Add",)

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        reason = NOTHING
        for data, bias in operands(node):
            product = produced_by(data, "MatMul", "Gemm")
            if product is None:
                continue
            found = self._fuse(product, node, bias)
            if not isinstance(found, Miss):
                return found
            reason = found
        return reason

    def _fuse(self, product: Node, root: Node, bias: Value) -> _Match | Miss:
        result = product.output
        factors = product.inputs[:2]
        if product.op == "MatMul" and any(f is None or f.rank is None for f in factors):
            return Miss("the rank of a factor is not known")
        if product.op == "MatMul" and any(f is None or f.rank != 2 for f in factors):
            return Miss("the product is not one of two matrices")
        if result.sole_user is not root:
            return Miss("the product is used elsewhere too")
        if result.dtype is not None and not result.dtype.is_float:
            return Miss("integers")
        shape = bias.shape if bias.constant is None else bias.constant.shape
        if not broadcasts_into(shape, _product_shape(product)):
            return Miss("the bias is not known to fit the product's shape")
        if product.op == "Gemm" and product.input(2) is not None:
            return self._second_bias(product, root, bias)
        return _Match(product, root, bias)

    def _second_bias(self, gemm: Node, root: Node, bias: Value) -> _Match | Miss:
        first, second = numbers(gemm.input(2)), numbers(bias)
        if first is None or second is None:
            return Miss("the Gemm has a bias already")
        if second.ndim == 0:
            second = second.reshape(1)
        total = first * float(gemm.attr("beta", 1.0)) + second
        if total.size > max(first.size, second.size):
            return Miss("the two biases together are larger than each")
        assert bias.constant is not None
        array = rounded(total, bias.constant.dtype)
        return Miss("the sum of the biases does not fit its float type") if array is None else _Match(gemm, root, array)

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        product = match.product
        bias = match.bias
        if isinstance(bias, np.ndarray):
            bias = rewriter.constant(bias, f"{product.name or 'gemm'}_bias")
        kept = {k: v for k, v in product.attributes.items() if k != "beta"}
        new = rewriter.op(
            "Gemm",
            [*product.inputs[:2], bias],
            kept,
            types=[match.root.output.type],
            origin=[product, match.root],
            name=product.name,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])


def _product_shape(product: Node) -> tuple[int | str | None, ...] | None:
    """Return rows and columns, derived from the factors if inference left the product without a shape."""
    first, second = product.inputs[:2]
    assert first is not None
    assert second is not None
    if first.shape is None or second.shape is None or len(first.shape) != 2 or len(second.shape) != 2:
        return product.output.shape
    return first.shape[1 if product.attr("transA", 0) else 0], second.shape[0 if product.attr("transB", 0) else 1]
