"""The files of an artifact's folder, none of which may be outside of it."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from graphopt.errors import ArtifactError

MANIFEST = "manifest.json"


def member(folder: Path, name: str) -> Path:
    """Return the path of a file of the artifact. Raises ArtifactError if it is outside of the folder."""
    path = folder / name
    plain = name not in ("", ".", "..") and "\0" not in name and os.path.basename(name) == name
    if plain:
        try:
            plain = stat.S_ISREG(path.lstat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return path
        except OSError as error:
            raise ArtifactError(f"{name} cannot be read: {error.strerror}", where=str(folder)) from error
    if not plain:
        raise ArtifactError(
            f"manifest.json names {name!r}, which is not a plain file of this folder",
            where=str(folder),
            remedy="do not use this artifact; compile the model again",
        )
    return path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
