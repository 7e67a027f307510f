"""Matmuls of two quantized values that are both computed while the model runs, such as those of attention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir import DType, Node, TensorType, Value
from graphopt.passes.quantization._moving import EIGHT_BITS
from graphopt.passes.quantization._pairs import Dequantized, dequantized
from graphopt.rewriting.passes import Rewriter

LARGEST_SUM = 2**31 // (255 * 128)
"""The number of products of a uint8 and an int8 number up to which no sum of them overflows."""


@dataclass(frozen=True)
class ActivationProduct:
    """A matmul of two values that are both computed while the model runs, each with one scale."""

    node: Node
    left: Dequantized
    right: Dequantized


def activation_product(node: Node) -> ActivationProduct | None:
    """Match a matmul whose weights are no constant matrix of integers, if both operands are integers of one scale."""
    left, right = (dequantized(value) for value in node.inputs[:2])
    if node.op != "MatMul" or left is None or right is None:
        return None
    if right.integers.constant is not None and len(right.integers.constant.shape) == 2:
        return None
    for operand in (left, right):
        rank = operand.integers.rank
        if operand.integers.dtype not in EIGHT_BITS or not operand.mapping.is_uniform or rank is None or rank < 2:
            return None
    depth = None if right.integers.shape is None else right.integers.shape[-2]
    known = isinstance(depth, int) and depth <= LARGEST_SUM // 2
    return ActivationProduct(node, left, right) if known else None


def activation_result(match: ActivationProduct, rewriter: Rewriter) -> Value:
    """Return the matmul of the integers, with their zero points, times both scales."""
    node, sides = match.node, (match.left, match.right)
    points: list[Value | None] = []
    for side in sides:
        zero = side.mapping.zero.astype(side.mapping.dtype.numpy)
        points.append(rewriter.constant(zero, f"{side.integers.name}_zero_point") if zero else None)
    inputs = [side.integers for side in sides] + (points if points[1] is not None else points[:1])
    sums = rewriter.op("MatMulInteger", inputs, types=[TensorType(DType.INT32, node.output.shape)]).output
    floats = TensorType(DType.FLOAT, node.output.shape)
    result = rewriter.op("Cast", [sums], {"to": int(DType.FLOAT)}, types=[floats]).output
    scale = np.float32(float(match.left.mapping.scale) * float(match.right.mapping.scale))
    return rewriter.op("Mul", [result, rewriter.constant(scale, f"{node.name}_scale")], types=[floats]).output
