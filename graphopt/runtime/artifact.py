"""The compiled model: a folder `name.gopt` with a manifest that describes its contents and requirements."""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.runtime.checks import check_files
from graphopt.runtime.manifest import read_manifest
from graphopt.runtime.members import MANIFEST, member
from graphopt.runtime.writing import replacing

if TYPE_CHECKING:
    import numpy as np

    from graphopt.runtime.session import Session


class Artifact:
    """A compiled model: its folder, its manifest, and a way to run it.

    The folder of an artifact that `compile` returned is temporary and removed with the object; `save` keeps it.
    """

    def __init__(self, folder: Path, *, temporary: bool = False) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._session: Session | None = None
        self._cleanup = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True) if temporary else None

    @staticmethod
    def load(path: str | os.PathLike[str], check: str = "code") -> Artifact:
        """Return the artifact in a folder, with its files checked as by `runtime.load`. Raises ArtifactError."""
        artifact = Artifact(Path(path))
        check_files(artifact.folder, artifact.manifest, check)
        return artifact

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the folder to `path`, completely or not at all; return its path.

        An existing artifact is replaced. Raises ArtifactError if something else is there, or if it cannot be written.
        """
        target = Path(path)
        with replacing(target) as scratch:
            for name in (MANIFEST, *self.manifest.files):
                shutil.copyfile(member(self.folder, name), scratch / name)
        return target

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model on this machine, from arrays by input name to arrays by output name; see `runtime.Session`."""
        if self._session is None:
            from graphopt.runtime.session import load  # loads numpy and tvm_ffi

            self._session = load(self.folder)
        return self._session.run(inputs)

    @property
    def nbytes(self) -> int:
        """The size of all files in the folder, in bytes."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def __repr__(self) -> str:
        return f"Artifact({str(self.folder)!r}, target={self.manifest.target.get('name')!r})"
