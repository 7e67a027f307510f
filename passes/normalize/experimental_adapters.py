"""Replacements for formerly experimental operators, which ONNX removed but ONNX Runtime still runs.

They compute what ONNX Runtime computes (onnxruntime/core/graph/contrib_ops), in float32 only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.ir import Node, Value
from graphopt.rewriting.passes import Rewriter

Expand = Callable[[Node, Rewriter], Value]


def _constant(node: Node, rewriter: Rewriter, what: str, value: object) -> Value:
    array = np.array(value)
    return rewriter.constant(array.astype(np.float32 if array.dtype.kind == "f" else np.int64), f"{_name(node)}/{what}")


def _name(node: Node) -> str:
    return node.name or node.op_type


def _scaled(node: Node, rewriter: Rewriter, value: Value | None, what: str, default: float) -> Value:
    factor = _constant(node, rewriter, what, float(node.attr(what, default)))
    return rewriter.op("Mul", [value, factor]).output


def _affine(node: Node, rewriter: Rewriter) -> Value:
    product = _scaled(node, rewriter, node.inputs[0], "alpha", 1.0)
    return rewriter.op("Add", [product, _constant(node, rewriter, "beta", float(node.attr("beta", 0.0)))]).output


def _scaled_tanh(node: Node, rewriter: Rewriter) -> Value:
    inner = _scaled(node, rewriter, node.inputs[0], "beta", 0.0)
    return _scaled(node, rewriter, rewriter.op("Tanh", [inner]).output, "alpha", 0.0)


def _parametric_softplus(node: Node, rewriter: Rewriter) -> Value:
    inner = _scaled(node, rewriter, node.inputs[0], "beta", 0.0)
    return _scaled(node, rewriter, rewriter.op("Softplus", [inner]).output, "alpha", 0.0)


def _scale(node: Node, rewriter: Rewriter) -> Value:
    return _scaled(node, rewriter, node.inputs[0], "scale", 1.0)


def _image_scaler(node: Node, rewriter: Rewriter) -> Value:
    bias = np.array(node.attr("bias", ()), np.float32).reshape(-1, 1, 1)
    product = _scaled(node, rewriter, node.inputs[0], "scale", 1.0)
    return rewriter.op("Add", [product, _constant(node, rewriter, "bias", bias)]).output


def _crop(node: Node, rewriter: Rewriter) -> Value:
    """Crop: `border` is left, top, right, bottom; `scale`, height and width, replaces the last two."""
    left, top, right, bottom = node.attr("border")
    scale = node.attr("scale")
    far = (1 << 62,) * 2
    if scale:
        ends: tuple[int, ...] = (top + scale[0], left + scale[1])
    else:
        ends = tuple(-border if border else end for border, end in zip((bottom, right), far))
    numbers = {"starts": (top, left), "ends": ends, "axes": (2, 3)}
    limits = [_constant(node, rewriter, what, ints) for what, ints in numbers.items()]
    return rewriter.op("Slice", [node.inputs[0], *limits]).output


def _dynamic_slice(node: Node, rewriter: Rewriter) -> Value:
    return rewriter.op("Slice", list(node.inputs)).output


EXPERIMENTAL: dict[str, Expand] = {
    "Affine": _affine,
    "Crop": _crop,
    "DynamicSlice": _dynamic_slice,
    "ImageScaler": _image_scaler,
    "ParametricSoftplus": _parametric_softplus,
    "Scale": _scale,
    "ScaledTanh": _scaled_tanh,
}
