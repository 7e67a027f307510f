"""Element types, shapes and the types of values, in ONNX's own terms."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass

import ml_dtypes
import numpy as np

Dim = int | str | None
"""One dimension: a size, the name of a symbolic size, or None if it is unknown."""

Shape = tuple[Dim, ...]


class DType(enum.IntEnum):
    """An element type; the numbers are those of `onnx.TensorProto.DataType`."""

    UNDEFINED = 0
    FLOAT = 1
    UINT8 = 2
    INT8 = 3
    UINT16 = 4
    INT16 = 5
    INT32 = 6
    INT64 = 7
    STRING = 8
    BOOL = 9
    FLOAT16 = 10
    DOUBLE = 11
    UINT32 = 12
    UINT64 = 13
    COMPLEX64 = 14
    COMPLEX128 = 15
    BFLOAT16 = 16
    FLOAT8E4M3FN = 17
    FLOAT8E4M3FNUZ = 18
    FLOAT8E5M2 = 19
    FLOAT8E5M2FNUZ = 20
    UINT4 = 21
    INT4 = 22
    FLOAT4E2M1 = 23
    FLOAT8E8M0 = 24
    UINT2 = 25
    INT2 = 26
    FLOAT6E2M3 = 27
    FLOAT6E3M2 = 28

    @property
    def numpy(self) -> np.dtype:
        """The numpy dtype; ml_dtypes supplies those that numpy lacks. Raises KeyError for UNDEFINED."""
        return _NUMPY[self]

    @classmethod
    def of(cls, dtype: np.dtype | type | np.ndarray) -> DType:
        """The element type of a numpy dtype or array. Raises KeyError where ONNX has none."""
        if isinstance(dtype, np.ndarray):
            dtype = dtype.dtype
        return _from_numpy(np.dtype(dtype))

    @property
    def is_float(self) -> bool:
        return self in _FLOATS

    @property
    def is_integer(self) -> bool:
        """Return whether this is a signed or unsigned integer (BOOL is not)."""
        return self in _INTEGERS

    @property
    def bits(self) -> int:
        """The size of one element in a file in bits; 4-bit and 2-bit elements are packed. Strings count as 0."""
        return _BITS.get(self, 0 if self in (DType.STRING, DType.UNDEFINED) else self.numpy.itemsize * 8)

    @property
    def text(self) -> str:
        """The usual name: `float32`, `int8`, `bfloat16`."""
        return "string" if self is DType.STRING else str(self.numpy)


_NUMPY: dict[DType, np.dtype] = {
    DType.FLOAT: np.dtype(np.float32),
    DType.UINT8: np.dtype(np.uint8),
    DType.INT8: np.dtype(np.int8),
    DType.UINT16: np.dtype(np.uint16),
    DType.INT16: np.dtype(np.int16),
    DType.INT32: np.dtype(np.int32),
    DType.INT64: np.dtype(np.int64),
    DType.STRING: np.dtype(object),
    DType.BOOL: np.dtype(np.bool_),
    DType.FLOAT16: np.dtype(np.float16),
    DType.DOUBLE: np.dtype(np.float64),
    DType.UINT32: np.dtype(np.uint32),
    DType.UINT64: np.dtype(np.uint64),
    DType.COMPLEX64: np.dtype(np.complex64),
    DType.COMPLEX128: np.dtype(np.complex128),
    DType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    DType.FLOAT8E4M3FN: np.dtype(ml_dtypes.float8_e4m3fn),
    DType.FLOAT8E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz),
    DType.FLOAT8E5M2: np.dtype(ml_dtypes.float8_e5m2),
    DType.FLOAT8E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz),
    DType.UINT4: np.dtype(ml_dtypes.uint4),
    DType.INT4: np.dtype(ml_dtypes.int4),
    DType.FLOAT4E2M1: np.dtype(ml_dtypes.float4_e2m1fn),
    DType.FLOAT8E8M0: np.dtype(ml_dtypes.float8_e8m0fnu),
    DType.UINT2: np.dtype(ml_dtypes.uint2),
    DType.INT2: np.dtype(ml_dtypes.int2),
    DType.FLOAT6E2M3: np.dtype(ml_dtypes.float6_e2m3fn),
    DType.FLOAT6E3M2: np.dtype(ml_dtypes.float6_e3m2fn),
}
_BITS = {
    DType.FLOAT6E2M3: 6,
    DType.FLOAT6E3M2: 6,
    DType.UINT4: 4,
    DType.INT4: 4,
    DType.FLOAT4E2M1: 4,
    DType.UINT2: 2,
    DType.INT2: 2,
}
_FLOATS = frozenset(d for d in DType if "FLOAT" in d.name or d is DType.DOUBLE)
_INTEGERS = frozenset(d for d in DType if "INT" in d.name)


@functools.cache
def _from_numpy(dtype: np.dtype) -> DType:
    if dtype.kind in "US":
        return DType.STRING
    return {numpy: onnx for onnx, numpy in _NUMPY.items()}[dtype]


@dataclass(frozen=True)
class TensorType:
    """A tensor of `dtype`; `shape` is None if even the rank is unknown."""

    dtype: DType
    shape: Shape | None = None

    def __str__(self) -> str:
        if self.shape is None:
            return self.dtype.text
        return f"{self.dtype.text}[{','.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class OpaqueType:
    """A type that graphopt preserves but does not interpret: sequence, optional, map, sparse tensor.

    `proto` is the serialized `onnx.TypeProto`.
    """

    proto: bytes


ValueType = TensorType | OpaqueType | None
