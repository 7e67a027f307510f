"""Writing an artifact's folder, whole or not at all."""

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
    """Write `manifest.json` with the digests of all other files that are in the folder now."""
    files = {
        path.name: File(sha256(path), path.stat().st_size) for path in sorted(folder.iterdir()) if path.name != MANIFEST
    }
    text = dataclasses.replace(manifest, files=files).to_json()
    (folder / MANIFEST).write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new folder beside `path` that takes its place when the block ends well and vanishes otherwise.

    Raises ArtifactError when `path` is neither free nor an artifact, or cannot be written.
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
            remedy="choose a folder that you may write to and that has room",
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def check_replaceable(path: Path) -> None:
    """Raise ArtifactError when something other than an artifact is at `path`: it must not be overwritten."""
    try:
        if not path.is_symlink() and not path.exists():
            return
        if path.is_dir() and not path.is_symlink() and (_is_artifact(path) or not any(path.iterdir())):
            return
    except OSError as error:
        raise ArtifactError(f"cannot be looked at: {error.strerror}", where=str(path)) from error
    raise ArtifactError(
        "is there already and is not an artifact",
        where=str(path),
        remedy=f"choose another name, such as {path.stem}{_SUFFIX}, or remove it yourself",
    )


def _is_artifact(path: Path) -> bool:
    """Whether the folder was written by this class, of whatever format version."""
    try:
        return bool(json.loads((path / MANIFEST).read_text(encoding="utf-8"))["kind"] == KIND)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _swap(scratch: Path, path: Path) -> None:
    """Put `scratch` where `path` is; what was there comes back if that fails."""
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
