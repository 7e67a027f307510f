"""Folding of Gemm's factors and transposes into its constant operands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Node, Value
from graphopt.passes.matching.affine import UNREPRESENTABLE
from graphopt.passes.matching.match import NOTHING, rounded
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Match:
    gemm: Node
    weight: np.ndarray | None
    bias: np.ndarray | None


@dataclass(frozen=True)
class FoldGemmConstants(RewritePass):
    """Multiply alpha and beta into a Gemm's constant weights and bias, and store the weights as they are used.

    A constant second factor becomes [K, N] with alpha 1 and transB 0, the form that matmuls need at run time. Weights
    with other uses are left alone, so that no second copy of them is stored.
    """

    name: ClassVar[str] = "fold-gemm-constants"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Gemm",)

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        alpha, beta = float(node.attr("alpha", 1.0)), float(node.attr("beta", 1.0))
        transposed = bool(node.attr("transB", 0))
        bias = node.input(2)
        scales_bias = beta != 1 and bias is not None
        if alpha == 1 and not transposed and not scales_bias:
            return NOTHING
        second = node.inputs[1]
        assert second is not None
        weight = new_bias = None
        if second.constant is not None and (alpha != 1 or transposed):
            if len(second.uses) > 1 or second.is_graph_output:
                return Miss("the weights are used elsewhere too")
            weight = _scaled(second, alpha, transposed)
            if weight is None:
                return UNREPRESENTABLE
        if scales_bias and bias is not None and bias.constant is not None:
            new_bias = _scaled(bias, beta, False)
        if weight is None and new_bias is None:
            return Miss("neither the weights nor the bias to be scaled are constant")
        return _Match(node, weight, new_bias)

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        gemm = match.gemm
        attributes = dict(gemm.attributes)
        inputs = list(gemm.inputs)
        if match.weight is not None:
            assert inputs[1] is not None
            inputs[1] = rewriter.constant(match.weight, inputs[1].name)
            attributes.pop("alpha", None)
            attributes.pop("transB", None)
        if match.bias is not None:
            assert inputs[2] is not None
            inputs[2] = rewriter.constant(match.bias, inputs[2].name)
            attributes.pop("beta", None)
        types = [gemm.output.type]
        new = rewriter.op("Gemm", inputs, attributes or None, types=types, origin=[gemm], name=gemm.name, before=gemm)
        rewriter.replace(gemm, [new.output])


def _scaled(value: Value, factor: float, transposed: bool) -> np.ndarray | None:
    tensor = value.constant
    assert tensor is not None
    if not tensor.dtype.is_float:
        return None
    array = tensor.numpy().T if transposed else tensor.numpy()
    if factor == 1:
        return np.ascontiguousarray(array)
    return rounded(array.astype(np.float64) * factor, tensor.dtype)
