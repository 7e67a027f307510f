"""Transposed convolutions that do not overlap, as pointwise ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Node
from graphopt.rewrite import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Match:
    node: Node
    factor: int


@dataclass(frozen=True)
class ExpandConvTranspose(RewritePass):
    """Compute a ConvTranspose whose kernel is its stride as a 1x1 convolution and a DepthToSpace.

    Each input position then makes a k x k square of outputs of its own: k*k times the channels at one position, moved
    to their places. Convolutions have fast kernels, and moving costs little.
    """

    name: ClassVar[str] = "expand-conv-transpose"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("ConvTranspose",)

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        weight, bias = node.input(1), node.input(2)
        if weight is None or weight.constant is None or (bias is not None and bias.constant is None):
            return Miss("the weight or the bias is computed")
        shape = weight.constant.shape
        if len(shape) != 4 or shape[2] != shape[3] or 0 in shape:
            return Miss("its kernel is no square")
        strides = list(node.attr("strides") or [1, 1])
        if strides != list(shape[2:]):
            return Miss("its windows overlap or leave gaps")
        plain = (
            node.attr("group", 1) == 1
            and not any(node.attr("pads") or [])
            and not any(node.attr("output_padding") or [])
            and all(d == 1 for d in node.attr("dilations") or [1])
            and node.attr("output_shape") is None
            and (node.attr("auto_pad", "NOTSET") or "NOTSET") in ("NOTSET", "VALID")
        )
        return _Match(node, shape[2]) if plain else Miss("it is grouped, dilated or padded")

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        node, factor = match.node, match.factor
        assert node.inputs[1] is not None
        assert node.inputs[1].constant is not None
        weight = node.inputs[1].constant.numpy()
        inputs, outputs = weight.shape[:2]
        # Channel (y * k + x) * O + o of the result belongs to output o at (y, x) of the square.
        pointwise = np.ascontiguousarray(weight.transpose(2, 3, 1, 0)).reshape(factor * factor * outputs, inputs, 1, 1)
        operands = [node.inputs[0], rewriter.constant(pointwise, node.inputs[1].name)]
        bias = node.input(2)
        if bias is not None:
            assert bias.constant is not None
            operands.append(rewriter.constant(np.tile(bias.constant.numpy(), factor * factor), bias.name))
        conv = rewriter.op("Conv", operands, {"kernel_shape": [1, 1]})
        if factor == 1:
            rewriter.replace(node, conv.output)
            return
        made = rewriter.op(
            "DepthToSpace", [conv.output], {"blocksize": factor, "mode": "DCR"}, types=[node.output.type]
        )
        rewriter.replace(node, made.output)
