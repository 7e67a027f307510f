"""Dequantization of constants that are operands of elementwise operators, ahead of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import DType, Node
from graphopt.ir.facts import Kind, facts_of
from graphopt.passes.matching.match import NOTHING
from graphopt.passes.quantization._operands import float_constant
from graphopt.passes.quantization._pairs import DEQUANTIZE
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter

_MOST = 65536
"""The number of elements up to which floats, four times as large, are no burden."""


@dataclass(frozen=True)
class DequantizeConstants(RewritePass):
    """Replace stored integers that only elementwise operators read by the floats that they stand for.

    These are factors and summands of channels, not weights; as constants they are folded into others, and take any
    layout.
    """

    name: ClassVar[str] = "dequantize-constants"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = (DEQUANTIZE,)

    def match(self, node: Node, context: PassContext) -> tuple[Node, np.ndarray] | Miss:
        stored, users = node.inputs[0], node.output.users
        if stored is None or stored.constant is None or node.output.is_graph_output or not users:
            return NOTHING
        if node.output.dtype is not DType.FLOAT or stored.constant.size > _MOST:
            return NOTHING
        if any(facts_of(user.op).kind is not Kind.BROADCAST for user in users):
            return NOTHING
        numbers = float_constant(node.output)
        return NOTHING if numbers is None else (node, numbers)

    def rewrite(self, match: tuple[Node, np.ndarray], rewriter: Rewriter) -> None:
        node, numbers = match
        rewriter.replace(node, rewriter.constant(numbers.astype(np.float32), node.output.name))
