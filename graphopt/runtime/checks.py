"""Whether the files of an artifact are those that its manifest lists."""

from __future__ import annotations

from pathlib import Path

from graphopt.errors import ArtifactError
from graphopt.runtime.manifest import LIBRARY, WEIGHTS, Manifest
from graphopt.runtime.members import member, sha256


def check_files(folder: Path, manifest: Manifest) -> None:
    """Whether every file that the manifest lists is in the folder itself, whole and unaltered. Raises ArtifactError."""
    where = str(folder)
    again = "compile the model again, or copy the folder again"
    for needed in (LIBRARY, WEIGHTS, *manifest.runtime):
        if needed not in manifest.files:
            raise ArtifactError(f"manifest.json does not list {needed}", where=where, remedy=again)
    for name, entry in manifest.files.items():
        path = member(folder, name)
        try:
            size = path.stat().st_size
            digest = sha256(path) if size == entry.bytes else ""
        except FileNotFoundError as error:
            raise ArtifactError(f"{name} is missing", where=where, remedy=again) from error
        except OSError as error:
            raise ArtifactError(f"{name} cannot be read: {error.strerror}", where=where) from error
        if size != entry.bytes:
            raise ArtifactError(f"{name} has {size:,} bytes instead of {entry.bytes:,}", where=where, remedy=again)
        if digest != entry.sha256:
            raise ArtifactError(f"{name} is altered: its SHA-256 is another", where=where, remedy=again)
