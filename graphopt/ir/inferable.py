"""Models and nodes in a form that ONNX's own inference handles correctly: without weights, with bugs worked around.

If inference would misinterpret a node, it gets an equivalent form of the node; the model itself is not changed.
"""

from __future__ import annotations

import functools
from typing import Any

import onnx

from .equivalents import newer_rules, simplify_pool
from .guard import DOMAIN, Scope, guard, may_be_negative
from .model import Model
from .node import Node
from .tensor import Tensor
from .tensor_proto import write_tensor
from .verify import RUNTIME_OPERATORS, find_schema
from .write_proto import write_model, write_node

INLINE_BYTES = 1024
"""The size in bytes up to which contents are passed to inference, which reads shapes, axes, pads and the like."""
_INLINE_INTEGER_BYTES = 64 * 1024
_CUTS_BY_INPUTS = 13
"""An opset whose Slice reads its bounds from inputs."""
_FAR = 1 << 62
_Imports = Any  # a list of operator sets in a proto


def write_inferable_model(model: Model) -> onnx.ModelProto:
    """Return the proto of a model for inference: of large weights only the type."""
    proto = write_model(model, _without_weights)
    for scope, imports in [(proto.graph, proto.opset_import), *((f, f.opset_import) for f in proto.functions)]:
        _adapt(scope, imports, proto)
    return proto


def _adapt(root: Scope, imports: _Imports, proto: onnx.ModelProto) -> None:
    """Give nodes, including those of nested graphs, forms that inference handles correctly."""
    version = next((known.version for known in imports if not known.domain), 0)
    stack = [root]
    while stack:
        scope = stack.pop()
        doubtful = [place for place, node in enumerate(scope.node) if may_be_negative(node)]
        for node in scope.node:
            if node.domain or any(a.ref_attr_name for a in node.attribute):
                continue
            _add_unseen_defaults(node, version)
            simplify_pool(node)
            if (newer := newer_rules(node, version)) != version:
                _wrap(node, [_in_terms_of_function(node)], newer, imports, proto)
            elif node.op_type in RUNTIME_OPERATORS and not find_schema(node.op_type, "", version):
                _wrap(node, _alike(node), _CUTS_BY_INPUTS, imports, proto)
        if doubtful:
            guard(scope, doubtful)
            _import(imports)
        stack.extend(g for n in scope.node for a in n.attribute for g in ([a.g] if a.HasField("g") else a.graphs))


def write_inferable_node(node: Node) -> tuple[onnx.NodeProto, dict[str, int]]:
    """Return the proto of a node for inference, and the opsets by whose rules its types are to be inferred."""
    opsets = dict(node.graph.model.opsets)
    proto = onnx.NodeProto()
    write_node(node, proto)
    if not node.domain:
        _add_unseen_defaults(proto, opsets.get("", 0))
        simplify_pool(proto)
        opsets[""] = newer_rules(proto, opsets.get("", 0))
    return proto, opsets


def _without_weights(tensor: Tensor, name: str) -> onnx.TensorProto:
    """Return a tensor for inference: its type, and its contents if it is small enough to be a shape or the like."""
    limit = _INLINE_INTEGER_BYTES if tensor.dtype.is_integer else INLINE_BYTES
    if tensor.nbytes <= limit:
        return write_tensor(tensor, name)
    return onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=tensor.shape, raw_data=b"")


def _in_terms_of_function(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a copy of a node that reads the inputs of a function and gives its outputs."""
    body = onnx.NodeProto()
    body.CopyFrom(node)
    body.input[:], body.output[:] = _parameters(node), _results(node)
    return body


def _alike(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the body of a function with the types of a formerly experimental operator, which ONNX does not know."""
    inputs = _parameters(node)
    if node.op_type == "DynamicSlice":
        return [onnx.helper.make_node("Slice", inputs, _results(node))]
    if node.op_type != "Crop":
        return [onnx.helper.make_node("Identity", inputs[:1], _results(node))]
    given = {attribute.name: list(attribute.ints) for attribute in node.attribute}
    left, top, right, bottom = given.get("border") or (0, 0, 0, 0)
    ends = [-bottom or _FAR, -right or _FAR]
    if "scale" in given:
        ends = [top + given["scale"][0], left + given["scale"][1]]
    bounds = {"starts": [top, left], "ends": ends, "axes": [2, 3]}
    constants = [onnx.helper.make_node("Constant", [], [name], value_ints=ints) for name, ints in bounds.items()]
    return [*constants, onnx.helper.make_node("Slice", [inputs[0], *bounds], _results(node))]


def _parameters(node: onnx.NodeProto) -> list[str]:
    return [f"x{place}" for place in range(len(node.input))]


def _results(node: onnx.NodeProto) -> list[str]:
    return [f"y{place}" for place in range(len(node.output))]


def _wrap(
    node: onnx.NodeProto, body: list[onnx.NodeProto], version: int, imports: _Imports, proto: onnx.ModelProto
) -> None:
    """Turn a node into a call of a new function with a body of another opset."""
    name = f"{node.op_type}_{len(proto.functions)}"
    opset = onnx.helper.make_opsetid("", version)
    proto.functions.append(onnx.helper.make_function(DOMAIN, name, _parameters(node), _results(node), body, [opset]))
    node.domain, node.op_type = DOMAIN, name
    del node.attribute[:]
    proto.ir_version = max(proto.ir_version, 8)  # functions need it
    _import(imports)


def _import(imports: _Imports) -> None:
    if all(known.domain != DOMAIN for known in imports):
        imports.add(domain=DOMAIN, version=1)


def _add_unseen_defaults(node: onnx.NodeProto, version: int) -> None:
    """Add default attributes that inference does not see within the body of one of ONNX's functions."""
    given = {attribute.name for attribute in node.attribute}
    defaults = _unseen_defaults(node.op_type, version)
    node.attribute.extend(default for default in defaults if default.name not in given)


@functools.cache
def _unseen_defaults(op_type: str, version: int) -> tuple[onnx.AttributeProto, ...]:
    """Return the default attributes of an operator whose types are inferred only through its function body."""
    schema = find_schema(op_type, "", version)
    if schema is None or schema.has_type_and_shape_inference_function:
        return ()
    return tuple(a.default_value for a in schema.attributes.values() if a.default_value.type)


__all__ = ["INLINE_BYTES", "write_inferable_model", "write_inferable_node"]
