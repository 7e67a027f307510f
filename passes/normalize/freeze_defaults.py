"""Conversion of inputs with defaults to constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph, TensorType
from graphopt.rewriting.passes import Fidelity, Pass, PassContext


@dataclass(frozen=True)
class FreezeDefaults(Pass):
    """Turn inputs with defaults into constants, so that callers can no longer pass them.

    Old exporters list every weight as an input. Weights that a caller may replace cannot be folded or packed, so this
    makes such models much faster. It is not in the default pipelines because it removes inputs of the model.
    """

    name: ClassVar[str] = "freeze-defaults"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: Graph, context: PassContext) -> None:
        defaults = [value for value in graph.inputs if value.tensor is not None]
        if not defaults:
            return
        rewriter = context.rewriter(graph)
        rewriter.set_graph_inputs([value for value in graph.inputs if value.tensor is None])
        for value in defaults:
            assert value.tensor is not None
            rewriter.set_type(value, TensorType(value.tensor.dtype, value.tensor.shape))
        context.count("inputs frozen", len(defaults))
