"""Models and nodes in a form that ONNX's own inference handles correctly: without weights, with bugs worked around.

If inference would misinterpret a node, it gets an equivalent form of the node; the model itself is not changed.
"""

from __future__ import annotations

import functools

import onnx

from .model import Model
from .node import Node
from .tensor import Tensor
from .tensor_proto import write_tensor
from .verify import find_schema
from .write_proto import write_model, write_node

INLINE_BYTES = 1024
"""The size in bytes up to which contents are passed to inference, which reads shapes, axes, pads and the like."""
_INLINE_INTEGER_BYTES = 64 * 1024
_ANY_AXES = 11
"""The first opset whose inference accepts the axes of a Squeeze in any order, and negative ones."""
_DOMAIN = "graphopt.inference"


def write_inferable_model(model: Model) -> onnx.ModelProto:
    """Return the proto of a model for inference: of large weights only the type."""
    proto = write_model(model, _without_weights)
    version = model.opset
    stack = [proto.graph]
    while stack:
        graph = stack.pop()
        for node in graph.node:
            _add_unseen_defaults(node, version)
            if _needs_newer_rules(node, version):
                _wrap(node, proto)
            stack.extend(g for a in node.attribute for g in ([a.g] if a.HasField("g") else a.graphs))
    return proto


def write_inferable_node(node: Node) -> tuple[onnx.NodeProto, dict[str, int]]:
    """Return the proto of a node for inference, and the opsets by whose rules its types are to be inferred."""
    opsets = dict(node.graph.model.opsets)
    proto = onnx.NodeProto()
    write_node(node, proto)
    _add_unseen_defaults(proto, opsets.get("", 0))
    if _needs_newer_rules(proto, opsets.get("", 0)):
        opsets[""] = _ANY_AXES
    return proto, opsets


def _without_weights(tensor: Tensor, name: str) -> onnx.TensorProto:
    """Return a tensor for inference: its type, and its contents if it is small enough to be a shape or the like."""
    limit = _INLINE_INTEGER_BYTES if tensor.dtype.is_integer else INLINE_BYTES
    if tensor.nbytes <= limit:
        return write_tensor(tensor, name)
    return onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=tensor.shape, raw_data=b"")


def _needs_newer_rules(node: onnx.NodeProto, version: int) -> bool:
    """Return whether an old node has axes that the inference of its opset misinterprets, unlike ONNX Runtime."""
    if node.domain or node.op_type not in ("Squeeze", "Unsqueeze") or version >= _ANY_AXES:
        return False
    axes = [axis for attribute in node.attribute if attribute.name == "axes" for axis in attribute.ints]
    return axes != sorted(axes) or any(axis < 0 for axis in axes)


def _wrap(node: onnx.NodeProto, proto: onnx.ModelProto) -> None:
    """Turn a node into a call of a new function that imports the newer opset."""
    body = onnx.NodeProto()
    body.CopyFrom(node)
    body.input[:], body.output[:] = ["x"], ["y"]
    name = f"{node.op_type}_{len(proto.functions)}"
    opset = onnx.helper.make_opsetid("", _ANY_AXES)
    proto.functions.append(onnx.helper.make_function(_DOMAIN, name, ["x"], ["y"], [body], [opset]))
    node.domain, node.op_type = _DOMAIN, name
    del node.attribute[:]
    proto.ir_version = max(proto.ir_version, 8)  # functions need it
    if all(known.domain != _DOMAIN for known in proto.opset_import):
        proto.opset_import.add(domain=_DOMAIN, version=1)


def _add_unseen_defaults(node: onnx.NodeProto, version: int) -> None:
    """Add default attributes that inference does not see within the body of one of ONNX's functions."""
    given = {attribute.name for attribute in node.attribute}
    defaults = () if node.domain else _unseen_defaults(node.op_type, version)
    node.attribute.extend(default for default in defaults if default.name not in given)


@functools.cache
def _unseen_defaults(op_type: str, version: int) -> tuple[onnx.AttributeProto, ...]:
    """Return the default attributes of an operator whose types are inferred only through its function body."""
    schema = find_schema(op_type, "", version)
    if schema is None or schema.has_type_and_shape_inference_function:
        return ()
    return tuple(a.default_value for a in schema.attributes.values() if a.default_value.type)


__all__ = ["INLINE_BYTES", "write_inferable_model", "write_inferable_node"]
