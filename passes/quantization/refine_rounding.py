"""Refinement of rounding: each weight goes up or down as is best for the results, the others given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.compression.rounding import descend
from graphopt.ir import Graph
from graphopt.passes.quantization.mending import Mendable, reround
from graphopt.rewriting.passes import Fidelity, Pass, PassContext


@dataclass(frozen=True)
class RefineRounding(Pass):
    """Choose for each quantized weight in turn the integer that is best for the results, until hardly any changes.

    A closed form of AdaRound: no step raises the error. Runs after quantize-static or quantize-weights, and after gptq,
    whose result it improves. Needs samples; keeps what lowers the error of a product and of the outputs.

    Options:
        sweeps: how often at most all weights of a product are visited.
    """

    name: ClassVar[str] = "refine-rounding"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY

    sweeps: int = 4

    def __post_init__(self) -> None:
        if self.sweeps < 1:
            raise ValueError("sweeps must be at least 1")

    def run(self, graph: Graph, context: PassContext) -> None:
        def choose(product: Mendable, gram: np.ndarray) -> np.ndarray:
            return descend(product.floats, product.stored.integers, product.steps, gram, self.sweeps)

        reround(graph, context, choose)
