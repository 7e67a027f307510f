"""Arrays in .npz files, for the commands that take inputs and give outputs."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import InputError

if TYPE_CHECKING:
    import numpy as np

_REMEDY = "Write one with numpy.savez(path, **{input_name: array}): one array for each input of the model."


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name. Raises InputError if it is missing or is none."""
    import numpy as np

    if not path.is_file():
        raise InputError("there is no such file", where=str(path), remedy=_REMEDY)
    try:
        with np.load(path, allow_pickle=False) as file:
            if isinstance(file, np.ndarray):
                raise InputError("this is a single .npy array, not an .npz file", where=str(path), remedy=_REMEDY)
            return {name: file[name] for name in file.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot be read as an .npz file ({error})", where=str(path), remedy=_REMEDY) from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz file, whole or not at all. Raises OSError where that is impossible."""
    import numpy as np

    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def describe_array(array: np.ndarray) -> dict[str, Any]:
    """Dtype, shape and, for numbers, range and mean (null for an empty array), as JSON's own types."""
    import numpy as np

    described: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.size and array.dtype.kind in "fiub":
        wide = array.astype(np.float64)
        for name, value in (("min", wide.min()), ("max", wide.max()), ("mean", wide.mean())):
            described[name] = float(value) if np.isfinite(value) else None
    return described
