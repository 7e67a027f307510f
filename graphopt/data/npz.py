"""Inputs and outputs in .npz files: one array for each, by its name."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.errors import InputError
from graphopt.util.files import replacing

if TYPE_CHECKING:
    import numpy as np

_REMEDY = "Write one with numpy.savez(path, **{input_name: array}): one array for each input of the model."


def read_npz(path: Path, dtypes: Mapping[str, np.dtype]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name. Raises InputError if it is missing or is none.

    The format has no name for bfloat16 and its like and keeps them as bare bytes: such arrays become what `dtypes`
    wants of that name, if the size of an element is right.
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
    """Write an .npz file, whole or not at all. Raises OSError where that is impossible."""
    import numpy as np

    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
