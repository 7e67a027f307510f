"""Checks that the files of an artifact are those that its manifest lists."""

from __future__ import annotations

from pathlib import Path

from graphopt.errors import ArtifactError, InputError
from graphopt.runtime.manifest import LIBRARY, WEIGHTS, Manifest
from graphopt.runtime.members import member, sha256

CHECKS = ("code", "full")
"""The checks of an artifact before it is used: of the contents of executable files, or of every file."""


def check_files(folder: Path, manifest: Manifest, check: str = "code") -> None:
    """Check that every file that the manifest lists is in the folder itself and has the right size.

    The SHA-256 of the libraries is checked too, and with `check` "full" that of every file, which means reading all
    weights and a kept model from end to end. Raises ArtifactError for a mismatch, InputError for another value of
    `check`.
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
            raise ArtifactError(f"{name} was modified: its SHA-256 differs", where=where, remedy=again)
