"""Scales of biases that are computed instead of stored: each is that of the data times that of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import DType, Node, Value
from graphopt.passes.matching.match import NOTHING
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter

_FEWEST = 16
"""The number of channels from which on a node takes less room than their scales."""


@dataclass(frozen=True)
class DeriveBiasScales(RewritePass):
    """Multiply the scales of data and weights for that of an int32 bias, rather than storing the products.

    Files get smaller by four bytes for each channel. Runtimes fold the multiplication when they load the model. Passes
    that mend a quantized model need scales that are stored: this one comes after them.
    """

    name: ClassVar[str] = "derive-bias-scales"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    ops: ClassVar[tuple[str, ...]] = ("Conv", "ConvTranspose", "Gemm")

    def match(self, node: Node, context: PassContext) -> tuple[Node, list[Value]] | Miss:
        sources = [None if value is None else value.producer for value in (*node.inputs, None)[:3]]
        if any(source is None or source.op != "DequantizeLinear" for source in sources):
            return NOTHING
        bias = sources[2]
        scales = [source.inputs[1] for source in sources if source is not None]
        if bias is None or any(v is None or v.constant is None or v.dtype is not DType.FLOAT for v in scales):
            return NOTHING
        data, weights, product = (value.constant.numpy() for value in scales if value and value.constant)
        if product.size < _FEWEST or data.size != 1 or any(s is not None and s.attr("block_size", 0) for s in sources):
            return NOTHING
        derived = data.reshape(()) * weights
        if derived.shape != product.shape or derived.tobytes() != product.tobytes():
            return Miss("the scale of its bias is not the product of the others")
        return bias, [value for value in scales[:2] if value is not None]

    def rewrite(self, match: tuple[Node, list[Value]], rewriter: Rewriter) -> None:
        bias, (data, weights) = match
        data_scale = data
        if data.constant is not None and data.constant.shape:
            data_scale = rewriter.constant(np.float32(data.constant.numpy().reshape(())), data.name)
        product = rewriter.op("Mul", [data_scale, weights], before=bias).output
        rewriter.set_input(bias, 1, product)
