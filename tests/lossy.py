"""A small lossy pass, as a user would write it: weights rounded to few levels, if the budget allows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Graph, Node, Tensor, Value
from graphopt.rewriting.passes import Fidelity, Pass, PassContext


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Round the weights of matrix products to few levels, and take back each step that goes over the budget.

    `layers`: the products, by the user's names (none: all). `careful`: measure after each and take it back.
    """

    name: ClassVar[str] = "round-weights"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    levels: int = 16
    layers: tuple[str, ...] | None = None
    careful: bool = True

    def run(self, graph: Graph, context: PassContext) -> None:
        if self.careful:
            context.evaluation.require("budget")
        for node in [node for node in graph.nodes if node.op_type in ("MatMul", "Gemm")]:
            value = node.inputs[1]
            wanted = self.layers is None or node.name in self.layers
            if wanted and value is not None and value.constant is not None and context.allow(node):
                self._round(node, value, value.constant, context)

    def _round(self, node: Node, value: Value, tensor: Tensor, context: PassContext) -> None:
        rewriter = context.rewriter(node.graph, node)
        weight = tensor.numpy()
        step = np.abs(weight).max() / (self.levels / 2)
        rewriter.set_tensor(value, Tensor.of((np.round(weight / step) * step).astype(weight.dtype)))
        budget = context.evaluation.budget
        if self.careful and budget is not None and context.evaluation.loss(context.model) > budget.max_drop:
            rewriter.set_tensor(value, tensor)
            context.miss("the budget does not allow it", node)
        else:
            context.count("rounded")
