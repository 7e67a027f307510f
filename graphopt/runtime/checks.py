"""Whether the files of an artifact are those that its manifest lists."""

from __future__ import annotations

from pathlib import Path

from graphopt.errors import ArtifactError, InputError
from graphopt.runtime.manifest import LIBRARY, WEIGHTS, Manifest
from graphopt.runtime.members import member, sha256

CHECKS = ("code", "full")
"""How much of an artifact is checked before it is used: the contents of what is executed, or of every file."""


def check_files(folder: Path, manifest: Manifest, check: str = "code") -> None:
    """Check that every file which the manifest lists is in the folder itself, of the size that it should have.

    The SHA-256 of the libraries is checked too, and with `check` "full" that of every file: weights and a kept model
    are read for that from end to end. Raises ArtifactError for what does not agree, InputError for another `check`.
    """
    if check not in CHECKS:
        raise InputError(f"there is no check '{check}'", remedy=f"one of: {', '.join(CHECKS)}")
    code = {LIBRARY, *manifest.runtime}
    where = str(folder)
    again = "compile the model again, or copy the folder again"
    for needed in (LIBRARY, WEIGHTS, *manifest.runtime):
        if needed not in manifest.files:
            raise ArtifactError(f"manifest.json does not list {needed}", where=where, remedy=again)
    for name, entry in manifest.files.items():
        path = member(folder, name)
        try:
            size = path.stat().st_size
            hashed = size == entry.bytes and (check == "full" or name in code)
            digest = sha256(path) if hashed else entry.sha256
        except FileNotFoundError as error:
            raise ArtifactError(f"{name} is missing", where=where, remedy=again) from error
        except OSError as error:
            raise ArtifactError(f"{name} cannot be read: {error.strerror}", where=where) from error
        if size != entry.bytes:
            raise ArtifactError(f"{name} has {size:,} bytes instead of {entry.bytes:,}", where=where, remedy=again)
        if digest != entry.sha256:
            raise ArtifactError(f"{name} is altered: its SHA-256 is another", where=where, remedy=again)
