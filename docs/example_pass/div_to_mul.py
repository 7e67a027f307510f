"""A pass for graphopt: multiplying is cheaper than dividing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt import Fidelity, Node, RewritePass, Rewriter
from graphopt.rewriting.passes import Miss, PassContext


@dataclass(frozen=True)
class DivToMul(RewritePass):
    """Replace a division by a constant with a product by its reciprocal.

    `largest` is the number of elements up to which a constant is worth rewriting.
    """

    name: ClassVar[str] = "div-to-mul"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Div",)

    largest: int = 1_000_000

    def match(self, node: Node, context: PassContext) -> tuple[Node, np.ndarray] | Miss:
        divisor = node.inputs[1]
        if divisor is None or divisor.constant is None:
            return Miss("")
        if divisor.dtype is None or not divisor.dtype.is_float:
            return Miss("integers do not divide by multiplying")
        array = context.array(divisor, self.largest)
        if array is None:
            return Miss("the constant is larger than the option allows")
        with np.errstate(all="ignore"):
            reciprocal = (1 / array).astype(array.dtype)
        if not (np.isfinite(reciprocal).all() and reciprocal.all()):
            return Miss("a reciprocal overflows or underflows")
        return node, reciprocal

    def rewrite(self, match: tuple[Node, np.ndarray], rewriter: Rewriter) -> None:
        node, reciprocal = match
        product = rewriter.op("Mul", [node.inputs[0], rewriter.constant(reciprocal)])
        rewriter.replace(node, [product.output])
