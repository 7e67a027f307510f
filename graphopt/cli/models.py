"""Opening what the user names: an ONNX file, or the optimized model inside an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.errors import ArtifactError

if TYPE_CHECKING:
    from graphopt.ir import Model


def is_artifact(path: Path) -> bool:
    """Whether `path` is meant as a compiled model: a folder, or a name that says so."""
    return path.is_dir() or path.suffix == ".gopt"


def open_model(path: Path) -> Model:
    """The model in an ONNX file, or the optimized model of an artifact. Raises ModelError or ArtifactError."""
    from graphopt import io
    from graphopt.runtime.artifact import Artifact
    from graphopt.runtime.manifest import MODEL

    if not is_artifact(path):
        return io.load(path)
    artifact = Artifact.load(path)
    if MODEL not in artifact.manifest.files:
        raise ArtifactError("holds no model.onnx", where=str(path), remedy="compile the model again")
    return io.load(artifact.folder / MODEL)
