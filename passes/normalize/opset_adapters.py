"""Adapters from older opsets to newer ones, operator by operator (onnx/docs/Changelog.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir import Node, Value
from graphopt.passes.normalize.adapting import Answer, Decline, adapts, become, int64, move_to_inputs
from graphopt.passes.normalize.experimental_adapters import EXPERIMENTAL
from graphopt.rewriting.passes import Rewriter


@adapts("Squeeze", "Unsqueeze", "ReduceSum")
def _axes_13(node: Node, version: int, to: int) -> Answer:
    return _axes(node, version, to, 13)


@adapts(
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"),
)
def _axes_18(node: Node, version: int, to: int) -> Answer:
    return _axes(node, version, to, 18)


def _axes(node: Node, version: int, to: int, changed: int) -> Answer:
    if version >= changed or to < changed:
        return None
    return lambda rewriter: move_to_inputs(node, rewriter, {"axes": int64(node.attr("axes"))}, 1)


@adapts("Softmax", "LogSoftmax", "Hardmax")
def _softmax(node: Node, version: int, to: int) -> Answer:
    """Convert softmax from before opset 13, which took its input as a matrix, with one axis for all from `axis` on."""
    if version >= 13 or to < 13:
        return None
    data = node.inputs[0]
    assert data is not None
    axis = node.attr("axis", 1)
    shape = data.shape
    if shape is not None and len(shape) > 0:
        axis %= len(shape)
        if all(dim == 1 for dim in shape[axis + 1 :]):
            return lambda rewriter: rewriter.set_attribute(node, "axis", axis)
    return lambda rewriter: _softmax_as_matrix(node, rewriter, axis, to)


def _softmax_as_matrix(node: Node, rewriter: Rewriter, axis: int, to: int) -> None:
    data = node.inputs[0]
    shape = rewriter.op("Shape", [data])
    matrix = rewriter.op("Flatten", [data], {"axis": axis})
    result = rewriter.op(node.op_type, [matrix.output], {"axis": -1})
    attributes = {"allowzero": 1} if to >= 14 else {}  # a size of 0 is one, and not a copy of the matrix's
    restored = rewriter.op("Reshape", [result.output, shape.output], attributes, types=[node.output.type])
    rewriter.replace(node, restored.output)


@adapts("Clip")
def _clip(node: Node, version: int, to: int) -> Answer:
    dtype = _dtype(node)
    given = [node.attr(name) if version < 11 else node.input(i) for i, name in enumerate(("min", "max"), 1)]
    infinite = version < 12 <= to and None in given and (dtype is None or dtype == np.float16)
    if dtype is None and (version < 11 <= to or infinite):
        return Decline("the element type of its input is unknown")
    # Where a bound is left out, ONNX Runtime takes the last finite number; but of float16 before opset 12, which it
    # computes in float32, an infinity.
    missing = {"min": -np.inf, "max": np.inf} if infinite else {}
    if version < 11 <= to:
        bounds = {name: node.attr(name, missing.get(name)) for name in ("min", "max")}
        arrays = {name: None if value is None else np.array(value, dtype) for name, value in bounds.items()}
        return lambda rewriter: move_to_inputs(node, rewriter, arrays, 1)
    return (lambda rewriter: _fill_bounds(node, rewriter, missing)) if infinite else None


def _fill_bounds(node: Node, rewriter: Rewriter, missing: dict[str, float]) -> None:
    data, low, high = (*node.inputs, None, None)[:3]
    bounds = [
        given or rewriter.constant(np.array(value, np.float16), f"{node.name or node.op_type}/{name}")
        for given, (name, value) in zip((low, high), missing.items(), strict=True)
    ]
    rewriter.set_inputs(node, [data, *bounds])


def _dtype(node: Node) -> np.dtype | None:
    data = node.inputs[0]
    known = (data.dtype if data is not None else None) or node.output.dtype
    return None if known is None else known.numpy


@adapts("Pad")
def _pad(node: Node, version: int, to: int) -> Answer:
    if version >= 11 or to < 11:
        return None
    dtype = _dtype(node)
    if dtype is None:
        return Decline("the element type of its input is unknown")
    value = node.attr("value", 0.0)
    arrays = {"pads": int64(node.attr("pads")), "value": np.array(value, dtype) if value else None}
    return lambda rewriter: move_to_inputs(node, rewriter, arrays, 1)


@adapts("Slice")
def _slice(node: Node, version: int, to: int) -> Answer:
    if version >= 10 or to < 10:
        return None
    arrays = {name: int64(node.attr(name)) for name in ("starts", "ends", "axes")}
    return lambda rewriter: move_to_inputs(node, rewriter, arrays, 1)


@adapts("Split")
def _split(node: Node, version: int, to: int) -> Answer:
    if version >= 18:
        return None

    def adapt(rewriter: Rewriter) -> None:
        if version < 13 <= to:
            move_to_inputs(node, rewriter, {"split": int64(node.attr("split"))}, 1)
        if to >= 18 and node.input(1) is None:
            rewriter.set_attribute(node, "num_outputs", len(node.outputs))

    return adapt


@adapts("TopK")
def _topk(node: Node, version: int, to: int) -> Answer:
    if version >= 10 or to < 10:
        return None
    return lambda rewriter: move_to_inputs(node, rewriter, {"k": int64([node.attr("k")])}, 1)


@adapts("Dropout")
def _dropout(node: Node, version: int, to: int) -> Answer:
    if version >= 12 or to < 12:
        return None
    if version < 10 and len(node.outputs) > 1 and node.outputs[1].has_uses:
        return Decline("its mask, which was not boolean before opset 10, is used")
    # No ratio means anything to inference, but since opset 12 ONNX Runtime refuses one that is no probability.
    given = node.attr("ratio", 0.5)
    ratio = np.array(given, np.float32) if 0 <= given < 1 else None

    def adapt(rewriter: Rewriter) -> None:
        move_to_inputs(node, rewriter, {"ratio": ratio}, 1)
        if version < 10 and len(node.outputs) > 1:
            rewriter.omit_output(node, 1)

    return adapt


@adapts("BatchNormalization")
def _batch_norm(node: Node, version: int, to: int) -> Answer:
    if version >= 14 or to < 9:
        return None
    if node.attr("spatial", 1) != 1:
        return Decline("it normalizes each position by itself (spatial=0), which opset 9 took away")
    if any(output.has_uses for output in node.outputs[1:]):
        return Decline("its training outputs are used")

    def adapt(rewriter: Rewriter) -> None:
        if "spatial" in node.attributes:
            rewriter.set_attribute(node, "spatial", None)
        for index in reversed(range(1, len(node.outputs))):
            rewriter.omit_output(node, index)

    return adapt


@adapts("Scatter")
def _scatter(node: Node, version: int, to: int) -> Answer:
    if to < 11:
        return None
    return lambda rewriter: become(node, rewriter, "ScatterElements", node.inputs, {"axis": node.attr("axis")})


@adapts("GroupNormalization")
def _group_norm(node: Node, version: int, to: int) -> Answer:
    if version >= 21 or to < 21:
        return None
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    if not isinstance(channels, int):
        return Decline("its channels are unknown, for each of which there is a scale and a bias since opset 21")
    repeats, rest = divmod(channels, node.attr("num_groups"))
    if rest:
        return Decline("its groups do not divide its channels")
    return lambda rewriter: _group_norm_per_channel(node, rewriter, repeats)


def _group_norm_per_channel(node: Node, rewriter: Rewriter, repeats: int) -> None:
    """Convert scale and bias, which were per group before opset 21, when sums had the dtype of the input."""
    column, sizes, flat = (
        rewriter.constant(np.array(numbers, np.int64), f"{node.name or node.op_type}/{name}")
        for name, numbers in (("column", [-1, 1]), ("repeats", [1, repeats]), ("channels", [-1]))
    )
    inputs: list[Value | None] = [node.inputs[0]]
    for value in node.inputs[1:]:
        repeated = rewriter.op("Expand", [rewriter.op("Reshape", [value, column]).output, sizes])
        inputs.append(rewriter.op("Reshape", [repeated.output, flat]).output)
    attributes: dict[str, Any] = {name: node.attr(name) for name in ("num_groups", "epsilon")}
    dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
    attributes["stash_type"] = int(dtype) if dtype is not None else None
    become(node, rewriter, "GroupNormalization", inputs, attributes)


@adapts("MeanVarianceNormalization")
def _mean_variance(node: Node, version: int, to: int) -> Answer:
    if version >= 13 or to < 9:
        return None
    if version >= 9:
        # ONNX's checker does not know the default of a function's attribute from opset 13 on.
        axes = node.attr("axes", (0, 2, 3))
        return lambda rewriter: rewriter.set_attribute(node, "axes", axes)
    if not node.attr("normalize_variance", 1):
        return Decline("it does not normalize the variance, which is mandatory since opset 9")
    summed = (0, 1, 2, 3) if node.attr("across_channels", 0) else (0, 2, 3)
    return lambda rewriter: become(node, rewriter, node.op_type, node.inputs, {"axes": summed})


@adapts("ThresholdedRelu")
def _thresholded_relu(node: Node, version: int, to: int) -> Answer:
    return None if to >= 10 else Decline("ONNX has it from opset 10 on")


@adapts(*EXPERIMENTAL)
def _experimental(node: Node, version: int, to: int) -> Answer:
    if to < 10:
        return Decline("ONNX removed it, and its replacement needs operators of opset 10")
    if len(node.inputs) < 3 if node.op_type == "DynamicSlice" else node.op_type == "Crop" and not node.attr("border"):
        return Decline("it does not say what to crop")
    return lambda rewriter: rewriter.replace(node, EXPERIMENTAL[node.op_type](node, rewriter))
