"""onnx.TypeProto to types and back."""

from __future__ import annotations

import onnx

from .types import Dim, DType, OpaqueType, TensorType, ValueType


def read_type(proto: onnx.TypeProto) -> ValueType:
    """A type proto as a TensorType where it is a tensor's, else opaque; None where it says nothing."""
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
    """Exporters that know nothing of a size write -1 or "?", often several times: unknown, and not one same size."""
    if proto.HasField("dim_value"):
        return proto.dim_value if proto.dim_value >= 0 else None
    return None if proto.dim_param == "?" else (proto.dim_param or None)


def is_denoted(proto: onnx.TypeProto) -> bool:
    return bool(proto.denotation) or any(dim.denotation for dim in proto.tensor_type.shape.dim)


def write_type(type_: ValueType, proto: onnx.TypeProto) -> None:
    """Fill a type proto; for None it stays empty."""
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
