"""Conversion between onnx.TensorProto and Tensor, with every size checked before it is used."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.errors import ModelError

from .tensor import Tensor, map_file
from .types import DType

LEFT_OUT = "(left out)"
"""A marker in place of an external file's name: the elements were left out, and only their digest was kept."""
_DIGEST = "digest"
_REMEDY = "the file is damaged or malicious: export the model again"


def read_tensor(proto: onnx.TensorProto, folder: Path | None, where: str) -> Tensor:
    """Return the tensor that a proto describes. External data is not read; data in the proto is copied.

    A part of a message keeps the whole message in memory: if a tensor only referred to it, all weights would be in
    memory twice as soon as one was read. `folder` is where external data is. Raises ModelError if the sizes are
    inconsistent, or if external data is missing, too short or outside the folder.
    """
    where = f"{where}: tensor '{proto.name}'"
    try:
        dtype = DType(proto.data_type)
    except ValueError:
        dtype = DType.UNDEFINED
    if dtype is DType.UNDEFINED:
        raise ModelError(f"element type {proto.data_type} is unknown", where=where, remedy=_REMEDY)
    shape = tuple(proto.dims)
    if any(dim < 0 for dim in shape):
        raise ModelError(f"shape {list(shape)} has a negative size", where=where, remedy=_REMEDY)
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        return _external(proto, dtype, shape, folder, where)
    if proto.HasField("raw_data"):
        data = proto.raw_data
        _check_bytes(len(data), dtype, shape, where)
        return Tensor(dtype, shape, lambda: decode_raw(data, dtype, shape))
    _check_count(proto, dtype, shape, where)
    array = _frozen(numpy_helper.to_array(proto))
    return Tensor(dtype, shape, lambda: array)


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    array.flags.writeable = False
    return array


def decode_raw(data: bytes | np.ndarray, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Return the elements of little-endian raw data; 4-bit and 2-bit elements are unpacked to one per byte."""
    if dtype.bits < 8:
        proto = onnx.TensorProto(data_type=int(dtype), dims=shape, raw_data=bytes(data))
        return _frozen(numpy_helper.to_array(proto))
    array = np.frombuffer(data, dtype.numpy)
    if sys.byteorder == "big":
        array = array.byteswap()
    return _frozen(array.reshape(shape))


def _check_bytes(found: int, dtype: DType, shape: tuple[int, ...], where: str) -> None:
    expected = (math.prod(shape) * dtype.bits + 7) // 8
    if dtype is DType.STRING or found != expected:
        raise ModelError(
            f"{dtype.text}{list(shape)} takes {expected} bytes, but there are {found}", where=where, remedy=_REMEDY
        )


_FIELDS = {
    DType.FLOAT: ("float_data", 1),
    DType.COMPLEX64: ("float_data", 2),
    DType.DOUBLE: ("double_data", 1),
    DType.COMPLEX128: ("double_data", 2),
    DType.INT64: ("int64_data", 1),
    DType.UINT32: ("uint64_data", 1),
    DType.UINT64: ("uint64_data", 1),
    DType.STRING: ("string_data", 1),
}


def _check_count(proto: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], where: str) -> None:
    field, factor = _FIELDS.get(dtype, ("int32_data", 1))
    expected = math.prod(shape) * factor
    if 0 < dtype.bits < 8:  # packed, one byte's worth in each int32
        expected = (expected * dtype.bits + 7) // 8
    found = len(getattr(proto, field))
    if found != expected:
        raise ModelError(
            f"{dtype.text}{list(shape)} takes {expected} entries of {field}, but there are {found}",
            where=where,
            remedy=_REMEDY,
        )


def _external(proto: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], folder: Path | None, where: str) -> Tensor:
    entries = {entry.key: entry.value for entry in proto.external_data}
    if entries.get("location") == LEFT_OUT:
        return Tensor(dtype, shape, lambda: _refuse(where), digest=entries.get(_DIGEST), left_out=True)
    path = _inside(entries.get("location", ""), folder, where)
    expected = (math.prod(shape) * dtype.bits + 7) // 8
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(expected)))
    except ValueError:
        raise ModelError("its external offset or length is not a number", where=where, remedy=_REMEDY) from None
    _check_bytes(length, dtype, shape, where)
    size = path.stat().st_size
    if offset < 0 or offset + length > size:
        raise ModelError(
            f"its data should be bytes {offset} to {offset + length} of '{path.name}', which has {size}",
            where=where,
            remedy="the external data file is truncated or belongs to another model",
        )
    return Tensor(dtype, shape, lambda: decode_raw(map_file(path, offset, length), dtype, shape), path)


def _refuse(where: str) -> np.ndarray:
    raise ModelError(
        "its elements are needed, but this file was written without weights",
        where=where,
        remedy="use the model itself, or compile it with --keep-model",
    )


def write_left_out(tensor: Tensor, name: str = "") -> onnx.TensorProto:
    """Return the proto of a tensor without its elements: dtype, shape and digest."""
    proto = onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=tensor.shape)
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", LEFT_OUT), (_DIGEST, tensor.digest)):
        proto.external_data.add(key=key, value=value)
    return proto


def _inside(location: str, folder: Path | None, where: str) -> Path:
    """Return the external file, which must be in the model's folder after following links."""
    if folder is None:
        raise ModelError(
            "its data is external, but the model was not read from a file",
            where=where,
            remedy="load the model by its path, or with onnx.load, which reads the external data too",
        )
    root = folder.resolve()
    path = (root / location).resolve()
    if not location or not path.is_relative_to(root):
        raise ModelError(
            f"its external data '{location}' is outside the model's folder",
            where=where,
            remedy="do not trust this model",
        )
    if not path.is_file():
        raise ModelError(f"its external data file '{location}' is missing", where=where, remedy=f"put it into {folder}")
    return path


def raw_data(tensor: Tensor) -> bytes | memoryview:
    """Return the elements as in a file: little-endian, sub-byte elements packed. Not copied if already in that form."""
    if tensor.dtype.bits < 8:
        return numpy_helper.from_array(tensor.numpy()).raw_data
    array = np.ascontiguousarray(tensor.numpy())
    if sys.byteorder == "big":
        array = array.byteswap()
    return array.reshape(-1).view(np.uint8).data


def write_tensor(tensor: Tensor, name: str = "") -> onnx.TensorProto:
    """Return the proto of a tensor with its data, unless that was left out of the file that it comes from."""
    if tensor.left_out:
        return write_left_out(tensor, name)
    proto = onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=tensor.shape)
    if tensor.dtype is DType.STRING:
        proto.string_data.extend(item if isinstance(item, bytes) else item.encode() for item in tensor.numpy().ravel())
    else:
        proto.raw_data = bytes(raw_data(tensor))
    return proto
