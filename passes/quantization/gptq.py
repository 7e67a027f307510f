"""GPTQ: weights are rounded column by column, the rest making up for the error of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.compression.rounding import gptq
from graphopt.ir import Graph
from graphopt.passes.quantization.mending import Mendable, reround
from graphopt.rewriting.passes import Fidelity, Pass, PassContext


@dataclass(frozen=True)
class Gptq(Pass):
    """Round quantized weights anew, one column after the other, so that the rest makes up for each error (GPTQ).

    Runs after quantize-static or quantize-weights, whose scales stay. Needs samples, from which it takes the Gram
    matrix of what each product sums. Keeps what lowers the error of a product and of the outputs.

    Options:
        damping: the part of the mean of the matrix's diagonal that is added to it.
        order: whether columns with the largest data are rounded first.
    """

    name: ClassVar[str] = "gptq"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY

    damping: float = 0.01
    order: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.damping <= 1:
            raise ValueError("damping must be above 0 and at most 1")

    def run(self, graph: Graph, context: PassContext) -> None:
        def choose(product: Mendable, gram: np.ndarray) -> np.ndarray:
            return gptq(product.floats, product.steps, gram, self.damping, self.order)

        reround(graph, context, choose)
