"""Conversion of onnx.SparseTensorProto to dense tensors, the only kind that nodes compute with."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx

from graphopt.errors import ModelError

from .tensor import Tensor
from .tensor_proto import read_tensor
from .types import DType

DENSE_LIMIT = 1 << 31
"""The limit in bytes for all sparse tensors of a model in dense form, because a tiny file can claim any size."""


class SparseReader:
    """Reads the sparse tensors of one model, within one limit."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.total = 0

    def read(self, proto: onnx.SparseTensorProto, where: str) -> Tensor:
        """Return the dense tensor that `proto` describes; it is created when it is first read.

        As in ONNX Runtime, indices may be in any order, and of equal ones the last counts. Raises ModelError if indices
        are out of range or differ in number from the values, or if the dense tensors of the model would be larger than
        the limit.
        """
        values = read_tensor(proto.values, self.folder, where)
        where = f"{where}: sparse tensor '{proto.values.name}'"
        shape = tuple(proto.dims)
        if any(dim < 0 for dim in shape):
            raise ModelError(f"shape {list(shape)} has a negative size", where=where)
        self.total += math.prod(shape) * (values.dtype.numpy.itemsize if values.dtype is not DType.STRING else 8)
        if self.total > DENSE_LIMIT:
            raise ModelError(
                f"the model's sparse tensors take more than {DENSE_LIMIT >> 30} GiB when they are dense",
                where=where,
                remedy="graphopt computes with dense tensors: do not trust this model, or use smaller tensors",
            )
        places = _places(proto, values, shape, self.folder, where)
        return Tensor(values.dtype, shape, lambda: _dense(values, places, shape))


def _places(
    proto: onnx.SparseTensorProto, values: Tensor, shape: tuple[int, ...], folder: Path | None, where: str
) -> np.ndarray:
    """Return the position of each value in the flat dense tensor."""
    if not proto.HasField("indices") or not values.size:
        if values.size:
            raise ModelError(f"it has {values.size} values and no indices", where=where)
        return np.zeros(0, np.int64)
    indices = read_tensor(proto.indices, folder, where)
    if indices.dtype is not DType.INT64 or indices.shape not in ((values.size,), (values.size, len(shape))):
        raise ModelError(f"its indices are {indices}, which does not fit {values.size} values", where=where)
    array = indices.numpy()
    bounds = np.array(shape if array.ndim == 2 else [math.prod(shape)], np.int64)
    if ((array < 0) | (array >= bounds)).any():
        raise ModelError(f"it has an index outside of {list(shape)}", where=where)
    return np.ravel_multi_index(tuple(array.T), shape) if array.ndim == 2 else array


def _dense(values: Tensor, places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if values.dtype is DType.STRING:
        dense = np.full(math.prod(shape), "", object)
    else:
        dense = np.zeros(math.prod(shape), values.dtype.numpy)
    dense[places] = values.numpy().reshape(-1)
    dense.flags.writeable = False
    return dense.reshape(shape)
