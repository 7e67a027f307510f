"""Models and nodes as ONNX's own inference takes them: without weights, and spelled so that it does not err.

Where inference reads a node wrongly, it is given another spelling of the same node; the model itself keeps its own.
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
"""Bytes up to which contents are shown to inference: it reads shapes, axes, pads and the like."""
_INLINE_INTEGER_BYTES = 64 * 1024
_ANY_AXES = 11
"""The opset from which on inference takes the axes of a Squeeze in any order, and negative ones."""
_DOMAIN = "graphopt.inference"


def write_inferable_model(model: Model) -> onnx.ModelProto:
    """The proto of a model for inference: large weights only lend it their type."""
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
    """The proto of a node for inference, and the opsets by whose rules its types are to be inferred."""
    opsets = dict(node.graph.model.opsets)
    proto = onnx.NodeProto()
    write_node(node, proto)
    _add_unseen_defaults(proto, opsets.get("", 0))
    if _needs_newer_rules(proto, opsets.get("", 0)):
        opsets[""] = _ANY_AXES
    return proto, opsets


def _without_weights(tensor: Tensor, name: str) -> onnx.TensorProto:
    """A tensor for inference: its type, and its contents only if it is small enough to be a shape or the like."""
    limit = _INLINE_INTEGER_BYTES if tensor.dtype.is_integer else INLINE_BYTES
    if tensor.nbytes <= limit:
        return write_tensor(tensor, name)
    return onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=tensor.shape, raw_data=b"")


def _needs_newer_rules(node: onnx.NodeProto, version: int) -> bool:
    """Whether an old node has axes that the inference of its opset reads wrongly, and ONNX Runtime rightly."""
    if node.domain or node.op_type not in ("Squeeze", "Unsqueeze") or version >= _ANY_AXES:
        return False
    axes = [axis for attribute in node.attribute if attribute.name == "axes" for axis in attribute.ints]
    return axes != sorted(axes) or any(axis < 0 for axis in axes)


def _wrap(node: onnx.NodeProto, proto: onnx.ModelProto) -> None:
    """Make a node a call of a function of its own, which imports the newer opset."""
    body = onnx.NodeProto()
    body.CopyFrom(node)
    body.input[:], body.output[:] = ["x"], ["y"]
    name = f"{node.op_type}_{len(proto.functions)}"
    opset = onnx.helper.make_opsetid("", _ANY_AXES)
    proto.functions.append(onnx.helper.make_function(_DOMAIN, name, ["x"], ["y"], [body], [opset]))
    node.domain, node.op_type = _DOMAIN, name
    del node.attribute[:]
    proto.ir_version = max(proto.ir_version, 8)  # functions came with it
    if all(known.domain != _DOMAIN for known in proto.opset_import):
        proto.opset_import.add(domain=_DOMAIN, version=1)


def _add_unseen_defaults(node: onnx.NodeProto, version: int) -> None:
    """Write out default attributes that inference does not know within the body of a function of ONNX's."""
    given = {attribute.name for attribute in node.attribute}
    defaults = () if node.domain else _unseen_defaults(node.op_type, version)
    node.attribute.extend(default for default in defaults if default.name not in given)


@functools.cache
def _unseen_defaults(op_type: str, version: int) -> tuple[onnx.AttributeProto, ...]:
    """Default attributes of an operator whose types are inferred through the body of its function alone."""
    schema = find_schema(op_type, "", version)
    if schema is None or schema.has_type_and_shape_inference_function:
        return ()
    return tuple(a.default_value for a in schema.attributes.values() if a.default_value.type)


__all__ = ["INLINE_BYTES", "write_inferable_model", "write_inferable_node"]
