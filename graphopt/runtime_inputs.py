"""Checks and prepares the arrays that go into compiled code: names, dtypes, shapes, layout and alignment."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.artifact import TensorInfo, Weight
from graphopt.errors import ArtifactError, InputError

_ALIGNMENT = 64  # compiled code reads whole vectors from the first element on
_CARRIERS = {1: np.uint8, 2: np.uint16}


def dtype_of(name: str) -> np.dtype[Any]:
    """numpy's dtype of that name; those it lacks (bfloat16, float8...) come from ml_dtypes, if that is installed."""
    try:
        return np.dtype(name)
    except TypeError:
        try:
            import ml_dtypes
        except ImportError as error:
            raise ArtifactError(f"holds {name} tensors", remedy="install ml_dtypes to use them") from error
        return np.dtype(getattr(ml_dtypes, name))


def check(wanted: Sequence[TensorInfo], given: Mapping[str, Any]) -> list[np.ndarray]:
    """The arrays in the order of `wanted`, as compiled code can read them. Raises InputError if one does not fit."""
    if not isinstance(given, Mapping):
        raise InputError(f"inputs must be a mapping of name to array, not {type(given).__name__}")
    _check_names([info.name for info in wanted], list(given))
    sizes: dict[str, tuple[int, str]] = {}
    return [_fit(info, given[info.name], sizes) for info in wanted]


def _check_names(wanted: list[str], given: list[str]) -> None:
    for name in given:
        if name not in wanted:
            near = difflib.get_close_matches(str(name), wanted, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(f"there is no input {name!r}", remedy=f"{hint}the inputs are: {', '.join(wanted)}")
    if missing := [name for name in wanted if name not in given]:
        raise InputError(
            f"no array given for input {', '.join(map(repr, missing))}",
            remedy=f"the inputs are: {', '.join(wanted)}",
        )


def _fit(info: TensorInfo, value: Any, sizes: dict[str, tuple[int, str]]) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InputError(f"is not an array: {error}", where=f"input {info.name!r}") from error
    dtype = dtype_of(info.dtype)
    if array.dtype != dtype:
        raise InputError(
            f"has dtype {array.dtype}, and the model takes {dtype}",
            where=f"input {info.name!r}",
            remedy=f"convert it first: array.astype({dtype.name!r})",
        )
    _check_shape(info, array.shape, sizes)
    return _aligned(array.astype(dtype, copy=False))


def _check_shape(info: TensorInfo, shape: tuple[int, ...], sizes: dict[str, tuple[int, str]]) -> None:
    text = "[" + ", ".join("?" if d is None else str(d) for d in info.shape) + "]"
    where = f"input {info.name!r}"
    if len(shape) != len(info.shape):
        raise InputError(f"has shape {list(shape)} of rank {len(shape)}, and the model takes {text}", where=where)
    for axis, (size, dim) in enumerate(zip(shape, info.shape, strict=True)):
        if isinstance(dim, int) and size != dim:
            raise InputError(
                f"has size {size} on axis {axis}, and the model takes {text}",
                where=where,
                remedy="give that shape, or compile the model for another with --input",
            )
        if isinstance(dim, str):
            first, owner = sizes.setdefault(dim, (size, f"input {info.name!r}, axis {axis}"))
            if first != size:
                raise InputError(
                    f"has size {size} on axis {axis}, but dimension {dim!r} is {first} ({owner})",
                    where=where,
                    remedy=f"every {dim!r} must have one size",
                )


def _aligned(array: np.ndarray) -> np.ndarray:
    """The array itself if compiled code can read it in place, otherwise a copy that it can."""
    if array.size == 0:
        return _empty(array.shape, array.dtype)
    usable = array.flags.c_contiguous and array.flags.writeable and array.ctypes.data % _ALIGNMENT == 0
    if usable:
        return array
    buffer = np.empty(array.nbytes + _ALIGNMENT, dtype=np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array without elements whose strides are the products of the sizes; numpy gives such arrays any strides."""
    strides = [dtype.itemsize]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return np.lib.stride_tricks.as_strided(np.empty(_ALIGNMENT, dtype), shape, strides)


def carrier(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype itself, or where DLPack cannot name numpy's the unsigned integer of its width."""
    return dtype if dtype.kind in "fiub" else np.dtype(_CARRIERS[dtype.itemsize])


def slices(data: np.ndarray, weights: Sequence[Weight], where: str) -> list[np.ndarray]:
    """Each weight as an array over the bytes of the weights file. Raises ArtifactError when one lies outside it."""
    arrays = []
    for weight in weights:
        dtype = dtype_of(weight.dtype)
        size = dtype.itemsize * int(np.prod(weight.shape, dtype=np.int64))
        inside = 0 <= weight.offset <= weight.offset + size <= data.nbytes and weight.offset % _ALIGNMENT == 0
        if not inside or any(d < 0 for d in weight.shape):
            raise ArtifactError("manifest.json describes weights that weights.bin does not hold", where=where)
        arrays.append(data[weight.offset : weight.offset + size].view(dtype).reshape(weight.shape))
    return arrays
