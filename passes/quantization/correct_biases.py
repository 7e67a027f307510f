"""Correction of biases: rounding shifts the mean of a product's results, which a constant can undo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.compression.products import Moments, collect_moments
from graphopt.ir import Graph, Value
from graphopt.passes.quantization.mending import Mendable, OutputError, Step, keep_what_helps, mendable_products
from graphopt.passes.quantization.stored import Bias, bias_of, write_bias
from graphopt.rewriting.passes import Fidelity, Pass, PassContext


@dataclass(frozen=True)
class CorrectBiases(Pass):
    """Put the mean error of each channel of quantized products, found on samples, into the bias.

    The error is that of rounded weights and data against float weights and data before rounding (Nagel et al., 2019,
    section 4.2). Runs after quantize-static or quantize-weights, and keeps what lowers the error of the outputs.
    """

    name: ClassVar[str] = "correct-biases"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY

    def run(self, graph: Graph, context: PassContext) -> None:
        places = []
        for product in mendable_products(graph, context):
            bias = bias_of(product.node)
            if isinstance(bias, str):
                context.miss(f"{product.node.op}: {bias}", product.node)
            elif context.allow(product.node):
                places.append((product, bias))
        if not places:
            return
        samples = context.evaluation.samples
        assert samples is not None
        reads = [(p.node, name) for p, _ in places for name in (p.data, _unrounded(p).name)]
        moments = collect_moments(context.model, samples, reads, gram=False, progress=context.progress)
        steps = [
            _step(context, product, bias, _shift(product, *moments[2 * i : 2 * i + 2]))
            for i, (product, bias) in enumerate(places)
        ]
        keep_what_helps(context, steps, OutputError(context), "biases corrected")


def _unrounded(product: Mendable) -> Value:
    """Return the data of a product before they were rounded."""
    data = product.node.inputs[0]
    assert data is not None
    for op in ("DequantizeLinear", "QuantizeLinear"):
        if data.producer is not None and data.producer.op == op and data.producer.inputs[0] is not None:
            data = data.producer.inputs[0]
    return data


def _shift(product: Mendable, rounded: Moments, unrounded: Moments) -> np.ndarray:
    """Return the mean error of each result."""
    found = np.matmul(product.stored.floats, rounded.mean[..., None])
    wanted = np.matmul(product.floats, unrounded.mean[..., None])
    return (found - wanted).reshape(-1)


def _step(context: PassContext, product: Mendable, bias: Bias, shift: np.ndarray) -> Step:
    inputs = list(bias.node.inputs)

    def make() -> None:
        write_bias(context.rewriter(product.node.graph, product.node), product.node, bias, bias.values - shift)

    def undo() -> None:
        context.rewriter(product.node.graph, product.node).set_inputs(bias.node, inputs)

    return Step(product.node, make, undo)
