"""Conversion of single operators from one opset to a newer one (onnx/docs/Changelog.md).

Each adapter gets a node, the current version of its operator, and the opset to reach; it returns None (nothing to do),
a Decline, or a function that makes the change. Nothing is changed until every node of the model has an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir import Attribute, Node, Tensor, Value
from graphopt.passes.normalize.experimental_adapters import EXPERIMENTAL
from graphopt.rewriting.passes import Rewriter

Adapt = Callable[[Rewriter], None]


@dataclass(frozen=True)
class Decline:
    """The reason why a node cannot be converted."""

    reason: str


Answer = Adapt | Decline | None
ADAPTERS: dict[str, Callable[[Node, int, int], Answer]] = {}


def _adapts(*op_types: str) -> Callable[[Callable[[Node, int, int], Answer]], Callable[[Node, int, int], Answer]]:
    def register(adapter: Callable[[Node, int, int], Answer]) -> Callable[[Node, int, int], Answer]:
        ADAPTERS.update(dict.fromkeys(op_types, adapter))
        return adapter

    return register


def _move_to_inputs(node: Node, rewriter: Rewriter, names: dict[str, Any], first: int) -> None:
    """Turn attributes into inputs `first`, `first + 1`, ...: an array is that input, None omits it."""
    inputs: list[Value | None] = list(node.inputs[:first])
    inputs += [None] * (first - len(inputs))
    for name, array in names.items():
        inputs.append(None if array is None else rewriter.constant(array, f"{node.name or node.op_type}/{name}"))
        rewriter.set_attribute(node, name, None)
    while inputs and inputs[-1] is None:
        inputs.pop()
    rewriter.set_inputs(node, inputs)


def _int64(values: Any) -> np.ndarray | None:
    return None if values is None else np.array(values, np.int64)


@_adapts("Squeeze", "Unsqueeze", "ReduceSum")
def _axes_13(node: Node, version: int, to: int) -> Answer:
    return _axes(node, version, to, 13)


@_adapts(
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"),
)
def _axes_18(node: Node, version: int, to: int) -> Answer:
    return _axes(node, version, to, 18)


def _axes(node: Node, version: int, to: int, changed: int) -> Answer:
    if version >= changed or to < changed:
        return None
    return lambda rewriter: _move_to_inputs(node, rewriter, {"axes": _int64(node.attr("axes"))}, 1)


@_adapts("Softmax", "LogSoftmax", "Hardmax")
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
    return lambda rewriter: _softmax_as_matrix(node, rewriter, axis)


def _softmax_as_matrix(node: Node, rewriter: Rewriter, axis: int) -> None:
    data = node.inputs[0]
    shape = rewriter.op("Shape", [data])
    matrix = rewriter.op("Flatten", [data], {"axis": axis})
    result = rewriter.op(node.op_type, [matrix.output], {"axis": -1})
    rewriter.replace(node, rewriter.op("Reshape", [result.output, shape.output], types=[node.output.type]).output)


@_adapts("Clip")
def _clip(node: Node, version: int, to: int) -> Answer:
    if version >= 11 or to < 11:
        return None
    bounds = {name: node.attr(name) for name in ("min", "max")}
    dtype = _dtype(node)
    if dtype is None:
        return Decline("the element type of its input is unknown")
    arrays = {name: None if value is None else np.array(value, dtype) for name, value in bounds.items()}
    return lambda rewriter: _move_to_inputs(node, rewriter, arrays, 1)


def _dtype(node: Node) -> np.dtype | None:
    data = node.inputs[0]
    known = (data.dtype if data is not None else None) or node.output.dtype
    return None if known is None else known.numpy


@_adapts("Pad")
def _pad(node: Node, version: int, to: int) -> Answer:
    if version >= 11 or to < 11:
        return None
    dtype = _dtype(node)
    if dtype is None:
        return Decline("the element type of its input is unknown")
    value = node.attr("value", 0.0)
    arrays = {"pads": _int64(node.attr("pads")), "value": np.array(value, dtype) if value else None}
    return lambda rewriter: _move_to_inputs(node, rewriter, arrays, 1)


@_adapts("Slice")
def _slice(node: Node, version: int, to: int) -> Answer:
    if version >= 10 or to < 10:
        return None
    arrays = {name: _int64(node.attr(name)) for name in ("starts", "ends", "axes")}
    return lambda rewriter: _move_to_inputs(node, rewriter, arrays, 1)


@_adapts("Split")
def _split(node: Node, version: int, to: int) -> Answer:
    if version >= 18:
        return None

    def adapt(rewriter: Rewriter) -> None:
        if version < 13 <= to:
            _move_to_inputs(node, rewriter, {"split": _int64(node.attr("split"))}, 1)
        if to >= 18 and node.input(1) is None:
            rewriter.set_attribute(node, "num_outputs", len(node.outputs))

    return adapt


@_adapts("TopK")
def _topk(node: Node, version: int, to: int) -> Answer:
    if version >= 10 or to < 10:
        return None
    return lambda rewriter: _move_to_inputs(node, rewriter, {"k": _int64([node.attr("k")])}, 1)


@_adapts("Dropout")
def _dropout(node: Node, version: int, to: int) -> Answer:
    if version >= 12 or to < 12:
        return None
    if version < 10 and len(node.outputs) > 1 and node.outputs[1].has_uses:
        return Decline("its mask, which was not boolean before opset 10, is used")
    ratio = np.array(node.attr("ratio", 0.5), np.float32)

    def adapt(rewriter: Rewriter) -> None:
        _move_to_inputs(node, rewriter, {"ratio": ratio}, 1)
        if version < 10 and len(node.outputs) > 1:
            rewriter.omit_output(node, 1)

    return adapt


@_adapts("BatchNormalization")
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


@_adapts("Scatter")
def _scatter(node: Node, version: int, to: int) -> Answer:
    if to < 11:
        return None
    return lambda rewriter: _become(node, rewriter, "ScatterElements", node.inputs, {"axis": node.attr("axis")})


@_adapts("Upsample")
def _upsample(node: Node, version: int, to: int) -> Answer:
    if to < 10:
        return Decline("raising it without turning it into Resize is not worth it")
    if to < 11:
        return Decline("Resize took its present form in opset 11")
    return lambda rewriter: _upsample_as_resize(node, rewriter)


def _upsample_as_resize(node: Node, rewriter: Rewriter) -> None:
    scales = node.input(1)
    if scales is None:
        scales = rewriter.constant(np.array(node.attr("scales"), np.float32), f"{node.name or 'Upsample'}/scales")
    _become(node, rewriter, "Resize", [node.inputs[0], None, scales], _resize_attributes(node, "floor"))


def _resize_attributes(node: Node, nearest: str) -> dict[str, Any]:
    """Return the attributes for the alignment of corners that was implicit until opset 10."""
    mode = node.attr("mode", "nearest")
    attributes = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    return attributes | ({"nearest_mode": nearest} if mode == "nearest" else {})


def _nearest_mode(node: Node) -> str | None:
    """Return the implicit rounding of a Resize of opset 10: ONNX Runtime rounds up along axes that shrink.

    None if it is not known, or if some axes shrink and others grow: today's Resize rounds all axes alike.
    """
    given = node.input(1)
    scales = None if given is None else given.constant
    values = np.ones(1) if scales is None else scales.numpy()
    if scales is None or ((values < 1).any() and (values > 1).any()):
        return "floor" if node.attr("mode", "nearest") != "nearest" else None
    return "ceil" if (values < 1).any() else "floor"


@_adapts("Resize")
def _resize(node: Node, version: int, to: int) -> Answer:
    if version == 10 and to >= 11:
        data, scales = node.inputs
        nearest = _nearest_mode(node)
        if nearest is None:
            return Decline("nearest of opset 10 rounds up where it shrinks, and down where it does not")
        attributes = _resize_attributes(node, nearest)
        return lambda rewriter: _become(node, rewriter, "Resize", [data, None, scales], attributes)
    if version >= 13 or to < 13:
        return None
    if node.attr("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        return Decline("tf_half_pixel_for_nn was taken away in opset 13")
    # In opset 11, an unused roi or scales had to be present, as an empty tensor.
    empty = [i for i in (1, 2) if _is_empty(node.input(i))]

    def adapt(rewriter: Rewriter) -> None:
        for index in empty:
            rewriter.set_input(node, index, None)

    return adapt if empty else None


def _is_empty(value: Value | None) -> bool:
    tensor: Tensor | None = value.constant if value is not None else None
    return tensor is not None and tensor.size == 0


@_adapts("GridSample")
def _grid_sample(node: Node, version: int, to: int) -> Answer:
    if version >= 20 or to < 20:
        return None
    renamed = {"bilinear": "linear", "bicubic": "cubic"}
    mode = node.attr("mode", "bilinear")
    return lambda rewriter: rewriter.set_attribute(node, "mode", renamed.get(mode, mode))


@_adapts("RoiAlign")
def _roi_align(node: Node, version: int, to: int) -> Answer:
    if version >= 16 or to < 16:
        return None
    return lambda rewriter: rewriter.set_attribute(node, "coordinate_transformation_mode", "output_half_pixel")


@_adapts("GroupNormalization")
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
    _become(node, rewriter, "GroupNormalization", inputs, attributes)


@_adapts("MeanVarianceNormalization")
def _mean_variance(node: Node, version: int, to: int) -> Answer:
    if version >= 9 or to < 9:
        return None
    if not node.attr("normalize_variance", 1):
        return Decline("it does not normalize the variance, which is mandatory since opset 9")
    axes = (1, 2, 3) if node.attr("across_channels", 0) else (2, 3)
    return lambda rewriter: _become(node, rewriter, node.op_type, node.inputs, {"axes": (0, *axes)})


@_adapts("ThresholdedRelu")
def _thresholded_relu(node: Node, version: int, to: int) -> Answer:
    return None if to >= 10 else Decline("ONNX has it from opset 10 on")


@_adapts(*EXPERIMENTAL)
def _experimental(node: Node, version: int, to: int) -> Answer:
    if to < 10:
        return Decline("ONNX removed it, and its replacement needs operators of opset 10")
    if len(node.inputs) < 3 if node.op_type == "DynamicSlice" else node.op_type == "Crop" and not node.attr("border"):
        return Decline("it does not say what to crop")
    return lambda rewriter: rewriter.replace(node, EXPERIMENTAL[node.op_type](node, rewriter))


def _become(node: Node, rewriter: Rewriter, op_type: str, inputs: Any, attributes: dict[str, Any | Attribute]) -> None:
    """Replace a node by another operator."""
    new = rewriter.op(op_type, inputs, attributes, types=[node.output.type], name=node.name)
    rewriter.replace(node, new.output)


__all__ = ["ADAPTERS", "Adapt", "Decline"]
