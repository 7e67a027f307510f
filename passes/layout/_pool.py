"""Pooling of blocked values: windows get one more axis of size one for the lanes, global pooling becomes reductions."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir import Node, Value
from graphopt.passes.layout._blocks import NOTHING, UNKNOWN, Layout, Plan, is_image
from graphopt.rewriting.passes import Miss, Rewriter

_MOST_AXES = 2  # spatial axes: with that of the lanes there are three, the maximum that ONNX runtimes support

_REDUCTIONS = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}


def pool(node: Node, layout: Layout) -> Plan | Miss:
    """MaxPool and AveragePool."""
    data = node.inputs[0]
    if data is None or data not in layout:
        return NOTHING
    if not is_image(node.output):
        return UNKNOWN
    if len(node.outputs) > 1 and node.outputs[1].has_uses:
        return Miss("the places of the maxima are used")
    kernel = list(node.attr("kernel_shape"))
    if len(kernel) > _MOST_AXES:
        return Miss(f"it pools over more than {_MOST_AXES} axes")
    attributes: dict[str, Any] = {**node.attributes, "kernel_shape": [*kernel, 1]}
    for name in ("strides", "dilations"):
        if node.attr(name):
            attributes[name] = [*node.attr(name), 1]
    pads = node.attr("pads")
    if pads:
        half = len(kernel)
        attributes["pads"] = [*pads[:half], 0, *pads[half:], 0]

    def make(rewriter: Rewriter) -> list[Value | None]:
        made = rewriter.op(node.op_type, [layout[data]], attributes, types=[layout.type_of(node.output)])
        return [made.output, *[None] * (len(node.outputs) - 1)]

    return make


def global_pool(node: Node, layout: Layout) -> Plan | Miss:
    """GlobalAveragePool and GlobalMaxPool as reductions over the spatial axes."""
    data = node.inputs[0]
    if data is None or data not in layout:
        return NOTHING
    if not is_image(node.output):
        return UNKNOWN
    assert data.rank is not None
    return _reduction(node, _REDUCTIONS[node.op_type], data, range(2, data.rank), layout)


def reduce(node: Node, layout: Layout) -> Plan | Miss:
    """Reductions over spatial axes that keep them."""
    data, axes = node.inputs[0], node.input(1)
    if data is None or data not in layout:
        return NOTHING
    if axes is None or axes.constant is None:
        return Miss("it reduces over all axes, or which ones is not known")
    assert data.rank is not None
    chosen = sorted(int(axis) % data.rank for axis in axes.constant.numpy().ravel())
    if not node.attr("keepdims", 1):
        return Miss("it drops the axes it reduces over")
    if not chosen or chosen[0] < 2:
        return Miss("it reduces over more than spatial axes")
    return _reduction(node, node.op_type, data, chosen, layout) if is_image(node.output) else UNKNOWN


def _reduction(node: Node, op_type: str, data: Value, axes: Any, layout: Layout) -> Plan:
    def make(rewriter: Rewriter) -> list[Value | None]:
        chosen = rewriter.constant(np.array(axes, np.int64), f"{node.name}_axes")
        inputs = [layout[data], chosen]
        return [rewriter.op(op_type, inputs, {"keepdims": 1}, types=[layout.type_of(node.output)]).output]

    return make
