"""Opening the models that the user names: an ONNX file, or the optimized model inside an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt.ir import Model
    from graphopt.runtime.manifest import Manifest


def is_artifact(path: Path) -> bool:
    """Return whether `path` stands for a compiled model: a folder, or a name with its suffix."""
    return path.is_dir() or path.suffix == ".gopt"


def open_model(path: Path) -> Model:
    """Return the model in an ONNX file, or the optimized model of an artifact.

    If the artifact does not contain the model, this is the graph without weights: anything that needs the elements of a
    large tensor then raises ModelError. Raises ModelError or ArtifactError.
    """
    from graphopt import io
    from graphopt.runtime.artifact import Artifact
    from graphopt.runtime.manifest import GRAPH, MODEL

    if not is_artifact(path):
        return io.load(path)
    artifact = Artifact.load(path)
    return io.load(artifact.folder / (MODEL if keeps_model(artifact.manifest) else GRAPH))


def keeps_model(manifest: Manifest) -> bool:
    """Return whether an artifact contains the optimized model with its weights."""
    from graphopt.runtime.manifest import MODEL

    return MODEL in manifest.files
