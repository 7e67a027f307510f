"""Constant tensors: immutable, and read only when their elements are needed."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .types import DType


class Tensor:
    """The contents of a constant: dtype and shape are always known, the elements are read on demand.

    A tensor never changes, so it may be shared between values, graphs and copies of a model. Create a tensor whose
    elements `read` returns, in `shape`.

    `location` is the external file they come from, if any; `digest` is the result of `Tensor.digest`, if known.
    `left_out`: the elements are not available, and `read` raises ModelError.
    """

    __slots__ = ("_array", "_digest", "_read", "dtype", "left_out", "location", "shape")

    def __init__(
        self,
        dtype: DType,
        shape: tuple[int, ...],
        read: Callable[[], np.ndarray],
        location: Path | None = None,
        digest: str | None = None,
        left_out: bool = False,
    ) -> None:
        """Make a tensor whose elements `read` returns, in `shape`.

        `location` is the external file they come from, if any; `digest` what `Tensor.digest` is, if that is known.
        `left_out`: the elements are nowhere, and `read` raises ModelError.
        """
        self.left_out = left_out
        self.dtype = dtype
        self.shape = shape
        self.location = location
        self._read: Callable[[], np.ndarray] | None = read
        self._array: np.ndarray | None = None
        self._digest = digest

    @classmethod
    def of(cls, array: np.ndarray | np.generic | float | int | bool) -> Tensor:
        """Return a tensor for a numpy array, which is copied only if its owner could still write to it."""
        array = np.asarray(array)
        if array.dtype.kind in "US":
            array = array.astype(object)
        if array.flags.writeable:
            array = array.copy()
            array.flags.writeable = False
        return cls(DType.of(array), array.shape, lambda: array)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The size of its elements in a file in bytes (sub-byte elements packed, strings by their UTF-8 length)."""
        if self.dtype is DType.STRING:
            return sum(len(_string_bytes(item)) for item in self.numpy().ravel())
        return (self.size * self.dtype.bits + 7) // 8

    def numpy(self) -> np.ndarray:
        """The elements, read-only. External data stays memory-mapped and is not kept by the tensor."""
        if self._array is not None:
            return self._array
        assert self._read is not None
        array = self._read()
        if self.location is None:
            self._array = array
            self._read = None
        return array

    def item(self) -> float | int | bool:
        """The only element. Raises ValueError if there is not exactly one."""
        return self.numpy().reshape(-1).item() if self.size == 1 else self.numpy().item()

    @property
    def digest(self) -> str:
        """A digest of dtype, shape and elements: equal tensors, and no others, have equal digests."""
        if self._digest is None:
            hasher = hashlib.blake2b(f"{int(self.dtype)}{self.shape}".encode(), digest_size=20)
            array = self.numpy()
            if self.dtype is DType.STRING:
                for item in array.ravel():
                    data = _string_bytes(item)
                    hasher.update(len(data).to_bytes(8, "little") + data)
            else:
                hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            self._digest = hasher.hexdigest()
        return self._digest

    def __repr__(self) -> str:
        return f"Tensor({self.dtype.text}{list(self.shape)})"


def _string_bytes(item: str | bytes) -> bytes:
    return item if isinstance(item, bytes) else item.encode()


def map_file(path: Path, offset: int, length: int) -> np.ndarray:
    """The bytes `offset .. offset + length` of a file as a read-only, memory-mapped uint8 array."""
    if length == 0:
        return np.frombuffer(b"", np.uint8)
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), offset - start + length, offset=start, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, np.uint8, count=length, offset=offset - start)


class HeldFile:
    """A file that is kept open, so that reading it returns the original contents even if it is replaced on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def map(self, offset: int, length: int) -> np.ndarray:
        """The bytes `offset .. offset + length` as a read-only, memory-mapped uint8 array."""
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(self._number, offset - start + length, offset=start, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, np.uint8, count=length, offset=offset - start)

    def __del__(self) -> None:
        os.close(self._number)
