"""Quantization of large constants that are added, such as the positions of tokens: 8 bits are enough for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.compression.scales import IntegerScheme
from graphopt.ir import DType, Node
from graphopt.passes.matching.match import NOTHING
from graphopt.passes.quantization._weights import fit_weights
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class QuantizeTables(RewritePass):
    """Store large constants that are added as 8-bit integers, with a scale for each row.

    They are no weights of products, and the sum stays a float: only the file gets smaller. Tables that Gather reads are
    an option of quantize-weights.

    Options:
        least: the smallest number of elements that is worth it.
    """

    name: ClassVar[str] = "quantize-tables"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    ops: ClassVar[tuple[str, ...]] = ("Add",)

    least: int = 1024

    def __post_init__(self) -> None:
        if self.least < 1:
            raise ValueError("least must be at least 1")

    def match(self, node: Node, context: PassContext) -> tuple[Node, int] | Miss:
        for index, value in enumerate(node.inputs):
            tensor = None if value is None else value.constant
            if tensor is None or tensor.dtype is not DType.FLOAT or len(tensor.shape) < 2 or tensor.size < self.least:
                continue
            if context.model.opset < 13:
                return Miss(f"opset {context.model.opset} has no scales for rows")
            return node, index
        return NOTHING

    def rewrite(self, match: tuple[Node, int], rewriter: Rewriter) -> None:
        node, index = match
        value = node.inputs[index]
        assert value is not None
        assert value.constant is not None
        array, axis = value.constant.numpy(), len(value.constant.shape) - 2
        scale = fit_weights(array, axis, IntegerScheme("int8", symmetric=True), least_error=True)
        integers = rewriter.constant(scale.quantize(array, axis), f"{value.name}/q")
        inputs = [integers, rewriter.constant(scale.scale, f"{value.name}/s")]
        floats = rewriter.op("DequantizeLinear", inputs, {"axis": axis}, name=f"{value.name}/dq")
        rewriter.set_input(node, index, floats.output)
