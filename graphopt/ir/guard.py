"""A guard against negative sizes: operators that do not fit their input, after which onnx aborts the process.

ONNX's inference gives a window that is longer than its data a negative size. That of Slice clamps to such a size, which
the C++ library of the released packages answers by ending the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnx import defs, helper, shape_inference

DOMAIN = "graphopt.inference"
Scope = onnx.GraphProto | onnx.FunctionProto
_GUARD = "UnlessNegative"
_MAY_BE_NEGATIVE = frozenset(
    (
        *("AveragePool", "CenterCropPad", "Conv", "ConvInteger", "ConvTranspose", "DeformConv", "LpPool", "MaxPool"),
        *("MaxUnpool", "Pad", "QLinearConv", "Split", "TopK"),
    )
)
"""Operators of which ONNX's inference may say that a size is negative."""


def may_be_negative(node: onnx.NodeProto) -> bool:
    """Return whether inference may give a result of the node a negative size."""
    return not node.domain and node.op_type in _MAY_BE_NEGATIVE


def guard(scope: Scope, places: Iterable[int]) -> None:
    """Make negative sizes of the results of nodes, given by their places, unknown to the rest of a graph."""
    guarded = frozenset(places)
    nodes: list[onnx.NodeProto] = []
    for place, node in enumerate(scope.node):
        nodes.append(node)
        for index, name in enumerate(node.output if place in guarded else ()):
            if name:
                node.output[index] = f"{DOMAIN}:{name}"
                nodes.append(helper.make_node(_GUARD, [node.output[index]], [name], domain=DOMAIN))
    if guarded:
        scope.ClearField("node")
        scope.node.extend(nodes)


def unguarded(nodes: Iterable[onnx.NodeProto]) -> Sequence[onnx.NodeProto]:
    """Return the nodes of a graph without guards."""
    return [node for node in nodes if node.domain != DOMAIN or node.op_type != _GUARD]


def _infer(context: shape_inference.InferenceContext) -> None:
    type_ = context.get_input_type(0)
    if type_ is None:
        return
    for dim in type_.tensor_type.shape.dim:
        if dim.dim_value < 0:
            dim.Clear()
    context.set_output_type(0, type_)


def _register() -> None:
    parameter = defs.OpSchema.FormalParameter
    types = [("T", list(defs.get_schema("Identity").type_constraints[0].allowed_type_strs), "")]
    schema = defs.OpSchema(
        _GUARD, DOMAIN, 1, inputs=[parameter("x", "T")], outputs=[parameter("y", "T")], type_constraints=types
    )
    schema.set_type_and_shape_inference_function(_infer)
    defs.register_schema(schema)


_register()

__all__ = ["DOMAIN", "Scope", "guard", "may_be_negative", "unguarded"]
