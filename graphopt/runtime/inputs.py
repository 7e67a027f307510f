"""Checks and preparation of the inputs of compiled code: names, dtypes, shapes, layout and alignment."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import ArtifactError, InputError
from graphopt.runtime.manifest import TensorInfo, Weight

_SIZES_KEPT = 8  # combinations of input shapes whose memory is kept for the next run
_ALIGNMENT = 64  # alignment of each weight in weights.bin


def dtype_of(name: str) -> np.dtype[Any]:
    """Return numpy's dtype of that name; those it lacks (bfloat16, float8...) come from ml_dtypes, if installed."""
    try:
        return np.dtype(name)
    except TypeError:
        try:
            import ml_dtypes
        except ImportError as error:
            raise ArtifactError(f"holds {name} tensors", remedy="install ml_dtypes to use them") from error
        return np.dtype(getattr(ml_dtypes, name))


class Inputs:
    """The inputs of one model, with a check of arrays that is fast if their shapes are the same as before.

    `defaults` are the inputs that may be omitted, with their values. `release` is called to free kept memory whenever
    more combinations of shapes have been seen than memory should be kept for.
    """

    def __init__(
        self,
        wanted: Sequence[TensorInfo],
        release: Callable[[], object] = lambda: None,
        defaults: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._wanted = wanted
        self._defaults = dict(defaults or {})
        self._release = release
        self._seen: set[tuple[tuple[int, ...], ...]] = set()
        self._dtypes = [(info.name, dtype_of(info.dtype)) for info in wanted]
        self._accepted: list[tuple[str, np.dtype[Any], tuple[int, ...]]] = []  # what last passed the complete check

    def check(self, given: Mapping[str, Any]) -> list[np.ndarray]:
        """Check arrays like the function `check`."""
        if self._defaults and isinstance(given, Mapping):
            given = {**self._defaults, **given}
        ready = self._as_before(given)
        if ready is not None:
            return ready
        arrays = check(self._wanted, given)
        self._remember(tuple(array.shape for array in arrays))
        if all(array.size for array in arrays):
            pairs = zip(self._dtypes, arrays, strict=True)
            self._accepted = [(name, dtype, array.shape) for (name, dtype), array in pairs]
        return arrays

    def _remember(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        if shapes not in self._seen:
            if len(self._seen) == _SIZES_KEPT:
                self._seen.clear()
                self._release()
            self._seen.add(shapes)

    def _as_before(self, given: Mapping[str, Any]) -> list[np.ndarray] | None:
        """Return the arrays themselves if their shapes are the same as last time and code can read them in place."""
        accepted = self._accepted
        if type(given) is not dict or len(given) != len(accepted):
            return None
        arrays = []
        for name, dtype, shape in accepted:
            array = given.get(name)
            if type(array) is not np.ndarray or array.shape != shape or array.dtype != dtype or not array.flags.carray:
                return None
            arrays.append(array)
        return arrays


def check(wanted: Sequence[TensorInfo], given: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the arrays in the order of `wanted`, readable by compiled code. Raises InputError if one does not fit."""
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
            f"has dtype {array.dtype}, but the model takes {dtype}",
            where=f"input {info.name!r}",
            remedy=f"convert it first: array.astype({dtype.name!r})",
        )
    _check_shape(info, array.shape, sizes)
    return _readable(array.astype(dtype, copy=False))


def _check_shape(info: TensorInfo, shape: tuple[int, ...], sizes: dict[str, tuple[int, str]]) -> None:
    text = "[" + ", ".join("?" if d is None else str(d) for d in info.shape) + "]"
    where = f"input {info.name!r}"
    if len(shape) != len(info.shape):
        raise InputError(f"has shape {list(shape)} of rank {len(shape)}, but the model takes {text}", where=where)
    for axis, (size, dim) in enumerate(zip(shape, info.shape, strict=True)):
        if isinstance(dim, int) and size != dim:
            raise InputError(
                f"has size {size} on axis {axis}, but the model takes {text}",
                where=where,
                remedy="use that shape, or compile the model for another one with --input",
            )
        if isinstance(dim, str):
            first, owner = sizes.setdefault(dim, (size, f"input {info.name!r}, axis {axis}"))
            if first != size:
                raise InputError(
                    f"has size {size} on axis {axis}, but dimension {dim!r} is {first} ({owner})",
                    where=where,
                    remedy=f"every {dim!r} must have the same size",
                )


def _readable(array: np.ndarray) -> np.ndarray:
    """Return the array itself if compiled code can read it in place, otherwise a copy that it can."""
    if array.size == 0:
        return _empty(array.shape, array.dtype)
    if not (array.flags.c_contiguous and array.flags.aligned):
        return array.copy(order="C")
    return array if array.flags.writeable else np.asarray(_Frozen(array)).view(array.dtype)


class _Frozen:
    """A view of a read-only array's memory that numpy treats as writeable; nothing writes to it.

    DLPack cannot express read-only memory, so numpy refuses to export it.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._array = array  # must live as long as the view
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Return an array without elements whose strides are the products of the sizes; numpy's own may be arbitrary."""
    strides = [dtype.itemsize]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return np.lib.stride_tricks.as_strided(np.empty(_ALIGNMENT, dtype), shape, strides)


def slices(data: np.ndarray, weights: Sequence[Weight], where: str) -> list[np.ndarray]:
    """Return each weight as an array over the bytes of the weights file. Raises ArtifactError if one is outside it."""
    arrays = []
    for weight in weights:
        dtype = dtype_of(weight.dtype)
        size = dtype.itemsize * int(np.prod(weight.shape, dtype=np.int64))
        inside = 0 <= weight.offset <= weight.offset + size <= data.nbytes and weight.offset % _ALIGNMENT == 0
        if not inside or any(d < 0 for d in weight.shape):
            raise ArtifactError("manifest.json describes weights that weights.bin does not contain", where=where)
        arrays.append(data[weight.offset : weight.offset + size].view(dtype).reshape(weight.shape))
    return arrays
