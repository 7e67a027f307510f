"""Conversion from Model to onnx.ModelProto."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import onnx

from .attribute import Attribute, AttributeKind
from .graph import Graph
from .implied import is_implied
from .model import Function, Model
from .node import ORIGIN, Node, Value
from .tensor import Tensor
from .tensor_proto import write_tensor
from .type_proto import read_type, write_type
from .types import DType

TensorWriter = Callable[[Tensor, str], onnx.TensorProto]


def write_model(model: Model, tensor_writer: TensorWriter = write_tensor) -> onnx.ModelProto:
    """Return the proto of a model; `tensor_writer(tensor, name)` decides how initializers are stored."""
    proto = onnx.ModelProto(ir_version=max(model.ir_version, _lowest_ir_version(model)))
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        _set(proto, name, getattr(model, name))
    _write_metadata(proto.metadata_props, model.metadata)
    for domain, version in model.opsets.items():
        proto.opset_import.add(domain=domain, version=version)
    for info in model.training_info:
        proto.training_info.add().ParseFromString(info)
    write_graph(model.graph, proto.graph, tensor_writer)
    for function in model.functions.values():
        _write_function(function, proto.functions.add())
    return proto


_INTEGERS_SINCE = {DType.INT4: 10, DType.UINT4: 10, DType.INT2: 13, DType.UINT2: 13}


def _lowest_ir_version(model: Model) -> int:
    """Return the oldest sufficient version: 3 has named opsets, 4 initializers that are no inputs, 8 functions.

    10 has 4-bit integers, 13 those of 2 bits.
    """
    initializers = [value.dtype for graph in model.graph.all_graphs() for value in graph.initializers.values()]
    lowest = 8 if model.functions else 4 if initializers else 3
    return max([lowest, *(_INTEGERS_SINCE.get(dtype, 0) for dtype in initializers if dtype is not None)])


def write_value(value: Value, proto: onnx.ValueInfoProto) -> None:
    proto.name = value.name
    denoted = value.graph.denoted_types.get(value)
    if denoted is not None and read_type(onnx.TypeProto.FromString(denoted)) == value.type:
        proto.type.ParseFromString(denoted)
    else:
        write_type(value.type, proto.type)
    _set(proto, "doc_string", value.doc_string)
    _write_metadata(proto.metadata_props, value.metadata)


def _set(proto: object, name: str, value: str | int) -> None:
    """Set a field unless the value is empty, because an absent field and an empty one mean the same."""
    if value:
        setattr(proto, name, value)


def write_graph(graph: Graph, proto: onnx.GraphProto, tensor_writer: TensorWriter = write_tensor) -> None:
    """Fill a graph proto."""
    proto.name = graph.name
    _set(proto, "doc_string", graph.doc_string)
    _write_metadata(proto.metadata_props, graph.metadata)
    for value in graph.inputs:
        write_value(value, proto.input.add())
    for value in graph.outputs:
        write_value(value, proto.output.add())
    for name, value in graph.initializers.items():
        assert value.tensor is not None
        tensor = tensor_writer(value.tensor, name)
        _set(tensor, "doc_string", value.doc_string)
        _write_metadata(tensor.metadata_props, value.metadata)
        proto.initializer.append(tensor)
    for annotation in graph.quantization_annotations:
        proto.quantization_annotation.add().ParseFromString(annotation)
    for node in graph.nodes:
        write_node(node, proto.node.add())
        _write_value_infos(node, graph, proto)


def _write_value_infos(node: Node, graph: Graph, proto: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Describe the results of a node, except types that reading the file restores."""
    for value in node.outputs:
        described = (value.type is not None and not is_implied(value)) or value.doc_string or value.metadata
        if value.name and described and graph not in value.output_of:
            write_value(value, proto.value_info.add())


def write_node(node: Node, proto: onnx.NodeProto) -> None:
    proto.op_type = node.op_type
    for name in ("name", "domain", "overload", "doc_string"):
        _set(proto, name, getattr(node, name))
    _write_metadata(proto.metadata_props, node.metadata)
    if node.origin and node.origin != (node.file_name,):
        proto.metadata_props.add(key=ORIGIN, value=json.dumps(node.origin))
    proto.input.extend("" if value is None else value.name for value in node.inputs)
    proto.output.extend(value.name for value in node.outputs)
    for name, attribute in node.attributes.items():
        write_attribute(name, attribute, proto.attribute.add())


def write_attribute(name: str, attribute: Attribute, proto: onnx.AttributeProto) -> None:
    proto.name, proto.type = name, int(attribute.kind)  # type: ignore[assignment]
    value = attribute.value
    if attribute.ref:
        proto.ref_attr_name = attribute.ref
        return
    match attribute.kind:
        case AttributeKind.FLOAT:
            proto.f = value
        case AttributeKind.INT:
            proto.i = value
        case AttributeKind.STRING:
            proto.s = _bytes(value)
        case AttributeKind.FLOATS:
            proto.floats.extend(value)
        case AttributeKind.INTS:
            proto.ints.extend(value)
        case AttributeKind.STRINGS:
            proto.strings.extend(_bytes(item) for item in value)
        case AttributeKind.TENSOR:
            proto.t.CopyFrom(write_tensor(value))
        case AttributeKind.TENSORS:
            proto.tensors.extend(write_tensor(item) for item in value)
        case AttributeKind.GRAPH:
            write_graph(value, proto.g)
        case AttributeKind.GRAPHS:
            for item in value:
                write_graph(item, proto.graphs.add())
        case AttributeKind.SPARSE_TENSOR:
            proto.sparse_tensor.ParseFromString(value)
        case AttributeKind.SPARSE_TENSORS:
            for item in value:
                proto.sparse_tensors.add().ParseFromString(item)
        case AttributeKind.TYPE_PROTO:
            proto.tp.ParseFromString(value)
        case AttributeKind.TYPE_PROTOS:
            for item in value:
                proto.type_protos.add().ParseFromString(item)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _write_function(function: Function, proto: onnx.FunctionProto) -> None:
    for name in ("domain", "name", "overload", "doc_string"):
        _set(proto, name, getattr(function, name))
    _write_metadata(proto.metadata_props, function.metadata)
    for domain, version in function.opsets.items():
        proto.opset_import.add(domain=domain, version=version)
    proto.attribute.extend(function.attributes)
    for name, attribute in function.defaults.items():
        write_attribute(name, attribute, proto.attribute_proto.add())
    proto.input.extend(value.name for value in function.graph.inputs)
    proto.output.extend(value.name for value in function.graph.outputs)
    for node in function.graph.nodes:
        write_node(node, proto.node.add())
        _write_value_infos(node, function.graph, proto)


def _write_metadata(props: object, metadata: Mapping[str, str]) -> None:
    for key, value in metadata.items():
        props.add(key=key, value=value)  # type: ignore[attr-defined]
