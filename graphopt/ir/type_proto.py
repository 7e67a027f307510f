"""Conversion between onnx.TypeProto and types."""

from __future__ import annotations

import onnx

from .types import Dim, DType, OpaqueType, TensorType, ValueType


def read_type(proto: onnx.TypeProto) -> ValueType:
    """Return a TensorType for the proto of a tensor, an OpaqueType for other types, None for an empty proto."""
    which = proto.WhichOneof("value")
    if which is None:
        return None
    if which != "tensor_type":
        return OpaqueType(proto.SerializeToString())
    tensor = proto.tensor_type
    if not tensor.elem_type:
        return None
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(_dim(dim) for dim in tensor.shape.dim)
    return TensorType(DType(tensor.elem_type), shape)


def _dim(proto: onnx.TensorShapeProto.Dimension) -> Dim:
    """Return a dimension. Exporters write -1 or "?" for unknown sizes, often repeatedly; these need not be equal."""
    if proto.HasField("dim_value"):
        return proto.dim_value if proto.dim_value >= 0 else None
    return None if proto.dim_param == "?" else (proto.dim_param or None)


def is_denoted(proto: onnx.TypeProto) -> bool:
    return bool(proto.denotation) or any(dim.denotation for dim in proto.tensor_type.shape.dim)


def write_type(type_: ValueType, proto: onnx.TypeProto) -> None:
    """Fill in a type proto; for None it stays empty."""
    if isinstance(type_, OpaqueType):
        proto.ParseFromString(type_.proto)
    elif isinstance(type_, TensorType):
        proto.tensor_type.elem_type = int(type_.dtype)
        if type_.shape is not None:
            shape = proto.tensor_type.shape
            shape.SetInParent()
            for dim in type_.shape:
                entry = shape.dim.add()
                if isinstance(dim, int):
                    entry.dim_value = dim
                elif dim is not None:
                    entry.dim_param = dim
