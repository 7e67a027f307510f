"""Conversion between arrays and tensors of the virtual machine: memory is shared on a CPU and copied on a GPU."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import tvm_ffi

_CARRIERS = {1: np.uint8, 2: np.uint16}
_CARRIED_BY_DLPACK = "fiub"


def carried(dtype: np.dtype[Any]) -> bool:
    """Return whether DLPack supports the dtype, so that an array can be an argument as it is."""
    return dtype.kind in _CARRIED_BY_DLPACK


def to_cpu(array: np.ndarray) -> Any:
    """Return a tensor over the array's own memory; it keeps the array alive."""
    if carried(array.dtype):
        return tvm_ffi.from_dlpack(array)
    return _view(tvm_ffi.from_dlpack(array.view(_carrier(array.dtype))), array.shape, array.dtype)


def to_gpu(array: np.ndarray) -> Any:
    """Return a copy of the array on the first GPU."""
    allocate = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
    name = tvm_ffi.dtype(array.dtype.name)
    there = allocate(tvm_ffi.Shape(array.shape), name, tvm_ffi.device("cuda", 0), None)
    tvm_ffi.get_global_func("runtime.TVMTensorCopyFromTo")(to_cpu(array), there)
    return there


def from_cpu(tensor: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """Return an array over the tensor's own memory, which is freed with the array."""
    if carried(dtype):
        return np.from_dlpack(tensor)
    return np.from_dlpack(_view(tensor, tensor.shape, _carrier(dtype))).view(dtype)


def from_gpu(tensor: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """Return a copy of a tensor on a GPU."""
    result = np.empty(tensor.shape, dtype=dtype)
    if result.nbytes:
        copy = tvm_ffi.get_global_func("runtime.TVMTensorCopyToBytes")
        copy(tensor, ctypes.c_void_p(result.ctypes.data), result.nbytes)
    return result


def own(array: np.ndarray, taken: list[np.ndarray]) -> np.ndarray:
    """Return the array, or a copy if it shares memory with one of the others."""
    for other in taken:
        if np.may_share_memory(array, other):
            return array.copy()
    return array


def _view(tensor: Any, shape: Any, dtype: np.dtype[Any]) -> Any:
    view = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")
    return view(tensor, tvm_ffi.Shape(shape), tvm_ffi.dtype(dtype.name), 0)


def _carrier(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the unsigned integer as wide as a dtype that numpy cannot export by DLPack (bfloat16, float8...)."""
    return np.dtype(_CARRIERS[dtype.itemsize])
