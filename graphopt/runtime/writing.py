"""Writing of an artifact's folder, completely or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from graphopt.errors import ArtifactError
from graphopt.runtime.manifest import KIND, File, Manifest
from graphopt.runtime.members import MANIFEST, sha256
from graphopt.util.files import umask

_SUFFIX = ".gopt"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` with the digests of all other files that are now in the folder."""
    files = {
        path.name: File(sha256(path), path.stat().st_size) for path in sorted(folder.iterdir()) if path.name != MANIFEST
    }
    text = dataclasses.replace(manifest, files=files).to_json()
    (folder / MANIFEST).write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new folder next to `path` that replaces it if the block succeeds, and is removed otherwise.

    Raises ArtifactError if `path` is neither free nor an artifact, or cannot be written.
    """
    check_replaceable(path)
    parent = path.absolute().parent
    scratch: Path | None = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=parent))
        scratch.chmod(0o777 & ~umask())
        yield scratch
        _swap(scratch, path)
    except OSError as error:
        raise ArtifactError(
            f"cannot be written: {error.strerror or error}",
            where=str(path),
            remedy="choose a writable folder with enough space",
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def check_replaceable(path: Path) -> None:
    """Raise ArtifactError if something other than an artifact is at `path`, which must not be overwritten."""
    try:
        if not path.is_symlink() and not path.exists():
            return
        if path.is_dir() and not path.is_symlink() and (_is_artifact(path) or not any(path.iterdir())):
            return
    except OSError as error:
        raise ArtifactError(f"cannot be accessed: {error.strerror}", where=str(path)) from error
    raise ArtifactError(
        "exists already and is not an artifact",
        where=str(path),
        remedy=f"choose another name, such as {path.stem}{_SUFFIX}, or remove it yourself",
    )


def _is_artifact(path: Path) -> bool:
    """Return whether the folder is an artifact, of whatever format version."""
    try:
        return bool(json.loads((path / MANIFEST).read_text(encoding="utf-8"))["kind"] == KIND)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _swap(scratch: Path, path: Path) -> None:
    """Move `scratch` to `path`; if that fails, restore what was there."""
    old: Path | None = None
    if path.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.absolute().parent))
        os.replace(path, old)
    try:
        os.replace(scratch, path)
    except OSError:
        if old is not None:
            os.replace(old, path)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
