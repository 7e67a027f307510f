"""Correction of declared types: files declare shapes that their nodes do not produce, or none at all."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import helper, shape_inference

from . import edit
from .graph import Graph
from .guard import unguarded
from .infer import merge_types
from .inferable import write_inferable_model
from .model import Model
from .node import Value
from .type_proto import read_type
from .types import TensorType, ValueType

_MADE_UP = "unk__"
_RESHAPE_RANK = 14
"""The first opset whose inference returns the rank of a Reshape to a partially known shape."""
_FAILED = (shape_inference.InferenceError, RuntimeError, ValueError)


def correct_declared_types(model: Model) -> list[str]:
    """Give values the types that follow from their inputs where the declared types contradict these, or are missing.

    ONNX Runtime does the same. Return a sentence about each corrected value.
    """
    proto = write_inferable_model(model)
    hidden = model.opset < _RESHAPE_RANK and any(node.op == "Reshape" for node in model.graph.all_nodes())
    if not hidden and _is_consistent(proto) and all(_is_complete(value) for value in model.graph.outputs):
        return []
    _strip(proto.graph)
    inferred = _inferred(proto)
    done: set[str] = set()
    while hidden and inferred is not None and _add_ranks(proto.graph, inferred.graph, done):
        inferred = _inferred(proto)
    return [] if inferred is None else list(_correct(model.graph, inferred.graph))


def _inferred(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    try:
        return shape_inference.infer_shapes(proto, data_prop=True)
    except _FAILED:
        return None


def _add_ranks(proto: onnx.GraphProto, inferred: onnx.GraphProto, done: set[str]) -> bool:
    """Declare the rank of the result of each Reshape that is not in `done`; return whether there was any.

    The result has as many dimensions as its shape has sizes, but ONNX's inference for old opsets returns nothing unless
    it knows all of these.
    """
    types = {info.name: info.type for info in (*inferred.input, *inferred.value_info, *inferred.output)}
    ranks = {t.name: t.dims[0] for t in inferred.initializer if len(t.dims) == 1}
    outputs = {info.name: info for info in proto.output}
    before = len(done)
    for node in inferred.node:
        known = types.get(node.output[0]) if node.op_type == "Reshape" and len(node.input) == 2 else None
        if known is None or known.tensor_type.HasField("shape") or node.output[0] in done:
            continue
        sizes = types.get(node.input[1], onnx.TypeProto()).tensor_type.shape.dim
        rank = ranks.get(node.input[1]) or (sizes[0].dim_value if len(sizes) == 1 else 0)
        if rank:
            done.add(node.output[0])
            info = outputs.get(node.output[0]) or proto.value_info.add(name=node.output[0])
            info.type.CopyFrom(helper.make_tensor_type_proto(known.tensor_type.elem_type, [None] * rank))
    return len(done) > before


def _is_consistent(proto: onnx.ModelProto) -> bool:
    try:
        shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except _FAILED:
        return False
    return True


def _is_complete(value: Value) -> bool:
    return value.type is not None and not (isinstance(value.type, TensorType) and value.type.shape is None)


def _strip(root: onnx.GraphProto) -> None:
    """Remove the declared types of all node outputs, in all nested graphs."""
    stack = [root]
    while stack:
        graph = stack.pop()
        made = {name for node in graph.node for name in node.output}
        del graph.value_info[:]
        for output in graph.output:
            if output.name in made:
                output.ClearField("type")
        stack.extend(g for node in graph.node for a in node.attribute for g in ([a.g] if a.HasField("g") else a.graphs))


def _correct(root: Graph, root_proto: onnx.GraphProto) -> Iterator[str]:
    stack = [(root, root_proto)]
    while stack:
        graph, proto = stack.pop()
        outputs = set(graph.outputs)
        for info in (*proto.value_info, *proto.output):
            value, found = graph.find(info.name), _own_sizes(read_type(info.type))
            if value is None or value.producer is None or found is None:
                continue
            if _contradicts(value.type, found):
                yield f"'{value.name}' is declared as {value.type}, but its node returns {found}: using the latter"
                edit.set_type(value, found)
            elif value in outputs and not _is_complete(value):
                edit.set_type(value, merge_types(value.type, found))
                if graph is root:
                    yield f"output '{value.name}' is declared without a shape: using {value.type}"
        for node, node_proto in zip(graph.nodes, unguarded(proto.node), strict=True):
            if node.subgraphs:
                graphs = [g for a in node_proto.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]
                stack.extend(zip(node.subgraphs, graphs, strict=True))


def _own_sizes(type_: ValueType) -> ValueType:
    """Return a type without the names that inference invented for unknown sizes."""
    if not isinstance(type_, TensorType) or type_.shape is None:
        return type_
    shape = (None if isinstance(dim, str) and dim.startswith(_MADE_UP) else dim for dim in type_.shape)
    return TensorType(type_.dtype, tuple(shape))


def _contradicts(declared: ValueType, found: ValueType) -> bool:
    if not isinstance(declared, TensorType) or not isinstance(found, TensorType):
        return False
    if declared.dtype != found.dtype:
        return True
    if declared.shape is None or found.shape is None:
        return False
    if len(declared.shape) != len(found.shape):
        return True
    pairs = zip(declared.shape, found.shape)
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
