"""Shape inference as a pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt import ir
from graphopt.ir import Graph
from graphopt.rewriting.passes import Fidelity, Pass, PassContext


@dataclass(frozen=True)
class InferShapes(Pass):
    """Find the type and shape of every value, by ONNX's own inference."""

    name: ClassVar[str] = "infer-shapes"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: Graph, context: PassContext) -> None:
        before = {value: value.type for g in graph.all_graphs() for value in g.values()}
        ir.infer_shapes(context.model)
        context.count("values typed", sum(value.type != type_ for value, type_ in before.items()))
