"""How far two computations of a quantized model are apart, in steps of its integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

_SLACK = 1e-3
"""The part of a step by which floats may be rounded."""
_MOVING = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def output_steps(model: onnx.ModelProto) -> dict[str, float | None]:
    """Return the scale of the integers that each output is made of; None for one that no DequantizeLinear makes."""
    made = {name: node for node in model.graph.node for name in node.output}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def step(name: str) -> float | None:
        node = made.get(name)
        while node is not None and node.op_type in _MOVING:
            node = made.get(node.input[0])
        if node is None or node.op_type != "DequantizeLinear" or node.input[1] not in weights:
            return None
        scale = numpy_helper.to_array(weights[node.input[1]])
        return float(scale.reshape(-1)[0]) if scale.size == 1 else None

    return {output.name: step(output.name) for output in model.graph.output}


def with_inner_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with all 8-bit values that it computes as further outputs."""
    result = onnx.shape_inference.infer_shapes(model)
    known = {info.name: info for info in result.graph.value_info}
    names = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    result.graph.output.extend(known[name] for name in names if name in known)
    return result


def within_a_step(
    wanted: Mapping[str, Any], found: Mapping[str, Any], steps: Mapping[str, float | None]
) -> dict[str, tuple[int, int]]:
    """Return, for each output, how many of its values are at most one step from those wanted, and how many there are.

    The step of integers is 1. An output without a step has a 255th of its range: what 8 bits could tell apart.
    """
    result = {}
    for name, array in wanted.items():
        a, b = np.asarray(array, np.float64), np.asarray(found[name], np.float64)
        step = 1.0 if np.issubdtype(np.asarray(array).dtype, np.integer) else steps.get(name)
        if step is None:
            step = float(a.max() - a.min()) / 255 if a.size else 0.0
        near = np.abs(a - b) <= step * (1 + _SLACK)
        result[name] = (int(near.sum()), a.size)
    return result


def total(counts: Sequence[Mapping[str, tuple[int, int]]]) -> float:
    """Return the share of all values that are within a step."""
    pairs = [pair for one in counts for pair in one.values()]
    return sum(near for near, _ in pairs) / max(1, sum(size for _, size in pairs))
