"""Samples from .npz and .npy files: one file of many samples, read one by one, or a folder with one sample per file."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from graphopt.errors import InputError
from graphopt.ir import Model, Value

from .npz import read_npz, typed

Feed = dict[str, Any]
_REMEDY = (
    "use an .npz file with a leading axis over the samples in each array, or a folder of .npz files, one per sample"
)


def file_feeds(
    path: Path, model: Model, values: Mapping[str, Value], extra: frozenset[str] = frozenset()
) -> Callable[[], Iterable[Feed]]:
    """Return a function that reads the samples of a file or folder. `extra` are names of arrays that are not inputs.

    In a single file, each array has a leading axis over the samples; if a model's batch size is open or 1, this may be
    the batch axis. Raises InputError if there is no such file, or if it is of another kind.
    """
    if not path.exists():
        raise InputError("there is no such file or folder", where=str(path), remedy=_REMEDY)
    dtypes = {name: value.dtype.numpy for name, value in values.items() if value.dtype is not None}
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".npz", ".npy"))
        if not files:
            raise InputError(
                "there are no .npz files, .npy files or images in this folder", where=str(path), remedy=_REMEDY
            )
        return lambda: (_whole(file, dtypes, values) for file in files)
    if path.suffix == ".npy":
        return lambda: _from_npy(path, values)
    if path.suffix != ".npz":
        raise InputError("samples cannot be read from such a file", where=str(path), remedy=_REMEDY)
    return lambda: _from_npz(path, dtypes, values, extra)


def _whole(path: Path, dtypes: Mapping[str, np.dtype], values: Mapping[str, Value]) -> Feed:
    if path.suffix == ".npz":
        return dict(read_npz(path, dtypes))
    return {_only(path, values): _load(path)}


def _only(path: Path, values: Mapping[str, Value]) -> str:
    if len(values) != 1:
        remedy = f"use .npz files with one array for each of: {', '.join(values)}"
        raise InputError("an .npy file can be used only for models with one input", where=str(path), remedy=remedy)
    return next(iter(values))


def _load(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"cannot be read as an .npy file ({error})", where=str(path), remedy=_REMEDY) from error
    return array


def _from_npy(path: Path, values: Mapping[str, Value]) -> Iterator[Feed]:
    name, array = _only(path, values), _load(path)
    part = _part(path, name, array.shape, values[name].shape)
    for index in range(array.shape[0] // max(part, 1) if part else array.shape[0]):
        yield {name: np.array(array[index * part : (index + 1) * part] if part else array[index])}


def _part(path: Path, name: str, shape: tuple[int, ...], declared: Any) -> int:
    """Return how many entries along the first axis are one sample; 0 if that axis is not part of a sample."""
    if declared is None or len(shape) == len(declared) + 1:
        if not shape:
            raise InputError(f"'{name}' has no axis over the samples", where=str(path), remedy=_REMEDY)
        return 0
    if len(shape) != len(declared) or not shape:
        raise InputError(
            f"'{name}' has {len(shape)} dimensions; the input has {len(declared)}, and one over samples",
            where=str(path),
            remedy=_REMEDY,
        )
    part = declared[0] if isinstance(declared[0], int) else 1
    if part == 0 or shape[0] % part:
        raise InputError(
            f"'{name}' has {shape[0]} rows, which is not a multiple of {part}", where=str(path), remedy=_REMEDY
        )
    return part


def _from_npz(
    path: Path, dtypes: Mapping[str, np.dtype], values: Mapping[str, Value], extra: frozenset[str]
) -> Iterator[Feed]:
    try:
        with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as stack:
            streams = {}
            for member in archive.namelist():
                name = member.removesuffix(".npy")
                streams[name] = _Stream(path, name, stack.enter_context(archive.open(member)))
            yield from _together(path, streams, dtypes, values, extra)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot be read as an .npz file ({error})", where=str(path), remedy=_REMEDY) from error


def _together(
    path: Path,
    streams: Mapping[str, _Stream],
    dtypes: Mapping[str, np.dtype],
    values: Mapping[str, Value],
    extra: frozenset[str],
) -> Iterator[Feed]:
    parts, counts = {}, {}
    for name, stream in streams.items():
        if name in values:
            parts[name] = _part(path, name, stream.shape, values[name].shape)
            counts[name] = stream.shape[0] // (parts[name] or 1)
        elif name not in extra:
            known = ", ".join((*values, *extra))
            raise InputError(f"the model has no input '{name}'", where=str(path), remedy=f"known names: {known}")
    if len(set(counts.values())) != 1:
        told = ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"
        raise InputError(f"the inputs differ in the number of samples ({told})", where=str(path), remedy=_REMEDY)
    count = next(iter(counts.values()))
    for name in streams.keys() - parts.keys():
        length = streams[name].shape[0] if streams[name].shape else 0
        if not length or length % count:
            raise InputError(f"'{name}' has {length} rows for {count} samples", where=str(path), remedy=_REMEDY)
        parts[name] = length // count
    for _ in range(count):
        yield {name: typed(streams[name].take(part), dtypes.get(name)) for name, part in parts.items()}


class _Stream:
    """An array in an archive that is read sequentially, a few rows at a time."""

    def __init__(self, path: Path, name: str, file: IO[bytes]) -> None:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, fortran, self.dtype = read(file)
        self.file = file
        self.whole: np.ndarray | None = None
        self.at = 0
        if self.dtype.hasobject:
            raise InputError(f"'{name}' contains Python objects", where=str(path), remedy="write strings as dtype '<U'")
        if fortran:  # its rows are scattered over the file
            self.whole = np.frombuffer(file.read(), self.dtype).reshape(self.shape, order="F")

    def take(self, rows: int) -> np.ndarray:
        """Return the next rows; with 0 the next one, without its axis."""
        if self.whole is not None:
            taken = self.whole[self.at : self.at + (rows or 1)]
            self.at += rows or 1
            return np.ascontiguousarray(taken[0] if rows == 0 else taken)
        shape = (rows, *self.shape[1:]) if rows else self.shape[1:]
        size = int(np.prod(shape)) * self.dtype.itemsize
        data = self.file.read(size)
        if len(data) != size:
            raise EOFError("it ends before its arrays do")
        return np.frombuffer(bytearray(data), self.dtype).reshape(shape)
