"""The compiled model: a folder `name.gopt` with a manifest that says what is in it and what it needs."""

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
    """A compiled model: the folder it lies in, its manifest, and a way to run it.

    One that `compile` returned lies in a temporary folder that goes away with the object; `save` keeps it.
    """

    def __init__(self, folder: Path, *, temporary: bool = False) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._session: Session | None = None
        self._cleanup = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True) if temporary else None

    @staticmethod
    def load(path: str | os.PathLike[str], check: str = "code") -> Artifact:
        """Return the artifact in that folder, its files checked as `runtime.load` checks them. Raises ArtifactError."""
        artifact = Artifact(Path(path))
        check_files(artifact.folder, artifact.manifest, check)
        return artifact

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the folder to `path`, whole or not at all; returns its path.

        An artifact that is already there is replaced. Raises ArtifactError when something else is there, or when
        the place cannot be written.
        """
        target = Path(path)
        with replacing(target) as scratch:
            for name in (MANIFEST, *self.manifest.files):
                shutil.copyfile(member(self.folder, name), scratch / name)
        return target

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run it on this machine: input name -> array gives output name -> array. See `runtime.Session.run`."""
        if self._session is None:
            from graphopt.runtime.session import load  # loads numpy and tvm_ffi

            self._session = load(self.folder)
        return self._session.run(inputs)

    @property
    def nbytes(self) -> int:
        """Bytes of all files of the folder."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def __repr__(self) -> str:
        return f"Artifact({str(self.folder)!r}, target={self.manifest.target.get('name')!r})"
