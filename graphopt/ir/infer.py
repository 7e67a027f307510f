"""Types and shapes of all values, by ONNX's own inference."""

from __future__ import annotations

import onnx
from onnx import shape_inference

from . import edit
from .frozen import write
from .graph import Graph
from .guard import unguarded
from .inferable import INLINE_BYTES, write_inferable_model, write_inferable_node
from .model import Model
from .node import Node, Value
from .tensor_proto import write_tensor
from .type_proto import read_type, write_type
from .types import Dim, Shape, TensorType, ValueType
from .verify import find_schema


def infer_shapes(model: Model) -> None:
    """Set `Value.type` wherever `onnx.shape_inference` (with data propagation) determines it.

    Known information is kept: a size is never replaced by a symbol. A model that inference cannot handle keeps its
    types.
    """
    if model._inferred_version == model.version:
        return
    proto = write_inferable_model(model)
    try:
        inferred = shape_inference.infer_shapes(proto, data_prop=True)
    except (shape_inference.InferenceError, RuntimeError, ValueError):
        return  # contradictory declarations: there is nothing to infer
    _update(model.graph, inferred.graph)
    write(model, "_inferred_version", model.version)


def _update(root: Graph, root_proto: onnx.GraphProto) -> None:
    stack = [(root, root_proto)]
    while stack:
        graph, proto = stack.pop()
        for info in (*proto.value_info, *proto.output):
            value = graph.find(info.name)
            if value is not None and value.tensor is None and not value.is_graph_input:
                _merge(value, read_type(info.type))
        for node, node_proto in zip(graph.nodes, unguarded(proto.node), strict=True):
            if node.subgraphs:
                graphs = [g for a in node_proto.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]
                stack.extend(zip(node.subgraphs, graphs, strict=True))


def _merge(value: Value, found: ValueType) -> None:
    edit.set_type(value, merge_types(value.type, found))


def merge_types(known: ValueType, found: ValueType) -> ValueType:
    """Combine two descriptions of one value; `known` takes precedence where they contradict each other."""
    if known is None or found is None:
        return known or found
    if not isinstance(known, TensorType) or not isinstance(found, TensorType) or known.dtype != found.dtype:
        return known
    return TensorType(known.dtype, _merge_shapes(known.shape, found.shape))


def _merge_shapes(known: Shape | None, found: Shape | None) -> Shape | None:
    if known is None or found is None or len(known) != len(found):
        return found if known is None else known
    return tuple(_merge_dims(a, b) for a, b in zip(known, found, strict=True))


def _merge_dims(known: Dim, found: Dim) -> Dim:
    if isinstance(known, int):
        return known
    return found if isinstance(found, int) or known is None else known


def infer_node(node: Node) -> None:
    """Infer the types of one node's outputs from those of its inputs; nodes with nested graphs are skipped."""
    for value, type_ in node_types(node).items():
        _merge(value, type_)


def node_types(node: Node) -> dict[Value, ValueType]:
    """Return the types that ONNX infers for a node's outputs from its inputs; none for a node with nested graphs."""
    inputs = list(dict.fromkeys(value for value in node.inputs if value is not None))
    if node.subgraphs or any(value.type is None for value in inputs):
        return {}
    proto, imports = write_inferable_node(node)
    schema = find_schema(node.op_type, node.domain, imports.get(node.domain, 0))
    if schema is None:
        return {}
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for value in inputs:
        write_type(value.type, types.setdefault(value.name, onnx.TypeProto()))
        constant = value.constant
        if constant is not None and constant.nbytes <= INLINE_BYTES:
            data[value.name] = write_tensor(constant, value.name)
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in imports.items()]
    try:
        found = shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=opsets)
    except (shape_inference.InferenceError, RuntimeError, ValueError):
        return {}  # the inputs do not match the schema: the verifier and the oracle will report it
    return {value: read_type(found[value.name]) for value in node.outputs if value.name in found}
