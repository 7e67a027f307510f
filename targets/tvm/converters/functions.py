"""Operators that ONNX defines as functions of others: their bodies are lowered."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import defs

from graphopt.ir import DType
from graphopt.ir.read_proto import read_model
from graphopt.ir.write_proto import write_node
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.operand import Operand
from graphopt.targets.tvm.lowering.registry import Declined


def has_body(op_type: str, domain: str, version: int) -> bool:
    """Return whether ONNX defines an operator by others, except those of preview domains, which take graphs."""
    if domain:
        return False
    schema = _schema(op_type, domain, version)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def expand(c: Call) -> list[Operand | None]:
    """Return the outputs of a node lowered through its function body. Raises Declined if there is none."""
    body = _body(c)
    model = read_model(_model(c, body))
    given = {name: operand for name, operand in zip(body.input, c.inputs) if operand is not None}
    with c.ctx.inside_layer():
        return c.ctx.lower_nodes(model.graph, {value: given[value.name] for value in model.graph.inputs})


def _schema(op_type: str, domain: str, version: int) -> Any:  # OpSchema | None; its stub lacks some methods
    try:
        return defs.get_schema(op_type, version, domain)
    except defs.SchemaError:
        return None


def _body(c: Call) -> onnx.FunctionProto:
    schema = _schema(c.node.op_type, c.node.domain, c.version)
    assert schema is not None
    if schema.has_context_dependent_function:
        version = _nearest(schema.context_dependent_function_opset_versions, c.version)
        types = [_type(operand).SerializeToString() for operand in c.inputs]
        node = _proto(c).SerializeToString()
        data = schema.get_context_dependent_function_with_opset_version(version, node, types)
    else:
        data = schema.get_function_with_opset_version(_nearest(schema.function_opset_versions, c.version))
    if not data:
        raise Declined("no converter for this operator, and no function body for these inputs")
    return onnx.FunctionProto.FromString(data)


def _proto(c: Call) -> onnx.NodeProto:
    proto = onnx.NodeProto()
    write_node(c.node, proto)
    return proto


def _nearest(versions: list[int], wanted: int) -> int:
    """Return the newest version that is not newer than the model's, else the oldest one."""
    return max((v for v in versions if v <= wanted), default=min(versions))


def _type(operand: Operand | None) -> onnx.TypeProto:
    if operand is None:
        return onnx.TypeProto()
    sizes = [size if isinstance(size, int) else str(size) for size in operand.shape]
    return onnx.helper.make_tensor_type_proto(_element_type(operand), sizes)


def _element_type(operand: Operand) -> int:
    for dtype in DType:
        if dtype is not DType.UNDEFINED and dtype.text == operand.dtype:
            return int(dtype)
    raise Declined(f"element type {operand.dtype}")


def _model(c: Call, body: onnx.FunctionProto) -> onnx.ModelProto:
    """Return the body as a model, with the node's attributes substituted and omitted inputs removed."""
    omitted = {name for i, name in enumerate(body.input) if c.input(i) is None}
    label = c.node.origin[0] if c.node.origin else c.node.name
    nodes = []
    for node in body.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.name = label
        _bind(copied, c, body)
        copied.input[:] = ["" if name in omitted else name for name in copied.input]
        nodes.append(copied)
    inputs = [
        onnx.ValueInfoProto(name=name, type=_type(c.input(i)))
        for i, name in enumerate(body.input)
        if name not in omitted
    ]
    # Types of outputs are unknown and not needed: only the nodes of this model are lowered.
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in body.output]
    made = {name for node in nodes for name in node.output} | {value.name for value in inputs}
    outputs = [value for value in outputs if value.name in made]
    graph = onnx.helper.make_graph(nodes, c.node.op_type, inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=list(body.opset_import), ir_version=11)


def _bind(node: onnx.NodeProto, c: Call, body: onnx.FunctionProto) -> None:
    """Replace references to the function's attributes by their values, or remove them if the node lacks them."""
    defaults = {attribute.name: attribute for attribute in body.attribute_proto}
    given = {attribute.name: attribute for attribute in _proto(c).attribute}
    kept = []
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                for nested in inner.node:
                    _bind(nested, c, body)
            kept.append(attribute)
            continue
        value = given.get(attribute.ref_attr_name) or defaults.get(attribute.ref_attr_name)
        if value is not None:
            bound = onnx.AttributeProto()
            bound.CopyFrom(value)
            bound.name = attribute.name
            kept.append(bound)
    del node.attribute[:]
    node.attribute.extend(kept)
