"""Inputs and outputs in .npz files: one array for each, by name."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.errors import InputError
from graphopt.util.files import replacing

if TYPE_CHECKING:
    import numpy as np

_REMEDY = "Write one with numpy.savez(path, **{input_name: array}): one array per input of the model."


def read_npz(path: Path, dtypes: Mapping[str, np.dtype]) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file by name. Raises InputError if it is missing or not an .npz file.

    The format has no names for bfloat16 and the like and stores them as raw bytes: such arrays get the dtype that
    `dtypes` has for their name, if the element size is right.
    """
    import numpy as np

    if not path.is_file():
        raise InputError("there is no such file", where=str(path), remedy=_REMEDY)
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise InputError("is a single array, not an .npz file", where=str(path), remedy=_REMEDY)
        with file:
            return {name: typed(file[name], dtypes.get(name)) for name in file.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        message = f"cannot be read as an .npz file ({error})"
        raise InputError(message, where=str(path), remedy=_REMEDY) from error


def typed(array: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    bare = array.dtype.kind == "V" and array.dtype.names is None
    return array.view(dtype) if dtype is not None and bare and dtype.itemsize == array.dtype.itemsize else array


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz file atomically. Raises OSError if that is impossible."""
    import numpy as np

    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
