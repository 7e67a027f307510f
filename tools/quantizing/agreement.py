"""How far two computations of a quantized model are apart, in steps of its integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

MADE = "__made"
_SLACK = 1e-3
"""The part of a step by which floats may be rounded."""
_MAKING = ("QuantizeLinear", "QLinearConv", "QLinearMatMul")
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
    outputs = {output.name for output in model.graph.output}
    made = {name for node in model.graph.node if node.op_type in _MAKING for name in node.output} - outputs
    result.graph.output.extend(info for info in result.graph.value_info if info.name in made)
    return result


def cut_apart(model: onnx.ModelProto, inner: Sequence[str]) -> onnx.ModelProto:
    """Return the model in which 8-bit values inside are inputs, beside the same values as they follow from others.

    Each layer then computes from given integers: what it returns, under the name of the value and `MADE`, does not
    depend on the rounding of the layers before it. `inner`: outputs of the model that are values inside.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    infos = [info for info in result.graph.output if info.name in inner]
    result.graph.input.extend(infos)
    for node in result.graph.node:
        for place, name in enumerate(node.output):
            if name in inner:
                node.output[place] = name + MADE
    for info in result.graph.output:
        if info.name in inner:
            info.name += MADE
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
