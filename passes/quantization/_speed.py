"""Where floats are faster than integers: what decides for each product of a quantized model on which it computes."""

from __future__ import annotations

from graphopt.hardware.target import Target
from graphopt.ir import Node

FLOATS_ARE_FASTER = "floats are faster on this machine"
"""The reason that reports give."""

_WINOGRAD = {256: ((12, 64), (20, 16)), 512: ((20, 128), (28, 64), (56, 16))}
"""By the bits of a vector: the least rows and columns of a result, and the least channels of data and result with
these, from which on Winograd's algorithm is clearly faster than the direct convolution of floats."""


def floats_are_faster(node: Node, target: Target | None) -> bool:
    """Return whether a convolution takes less time on floats than on integers.

    An x86 processor without dot products of bytes takes at best two thirds of the time of fused multiply-adds for
    integers. Winograd's algorithm for floats saves more: measured, integers take 1.1 to 2 times as long. In a depthwise
    convolution, each weight is multiplied by its own data, for which there are no instructions: 1.1 to 1.6 times.
    """
    if target is None or target.kind != "cpu" or target.machine != "x86_64" or target.dot_product:
        return False
    return node.op == "Conv" and (_is_depthwise(node) or _is_transformed(node, target.vector_bits))


def _is_depthwise(node: Node) -> bool:
    data, weight = (None if value is None else value.shape for value in node.inputs[:2])
    return bool(data and weight) and weight[1] == 1 and 1 < node.attr("group", 1) == data[1] == weight[0]  # type: ignore


def _is_transformed(node: Node, bits: int) -> bool:
    """Return whether floats would be convolved by Winograd's algorithm: 3x3 kernels without strides, of known sizes."""
    weight = None if node.inputs[1] is None else node.inputs[1].shape
    sizes = node.output.shape
    if weight is None or sizes is None or len(weight) != 4 or not all(isinstance(s, int) for s in (*weight, *sizes)):
        return False
    plain = weight[2:] == (3, 3) and node.attr("group", 1) == 1
    if not plain or {*node.attr("strides", (1, 1)), *node.attr("dilations", (1, 1))} != {1}:
        return False
    space = [int(size) for size in sizes[2:]]  # type: ignore[arg-type]
    channels = min(int(weight[0]), int(weight[1]))  # type: ignore[arg-type]
    return any(min(space) >= least and channels >= most for least, most in _WINOGRAD[512 if bits >= 512 else 256])
