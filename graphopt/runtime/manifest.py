"""The manifest of an artifact: what is in the folder, and what it needs.

Reading a manifest needs only the standard library, so that the runtime stays light. It contains neither times nor
paths, so that building twice gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphopt.errors import ArtifactError
from graphopt.runtime.members import MANIFEST, member
from graphopt.util.codec import DecodeError, decode, encode

FORMAT = 3
KIND = "graphopt artifact"
LIBRARY = "lib.so"
WEIGHTS = "weights.bin"
MODEL = "model.onnx"
"""The optimized model, which exists only on request."""
GRAPH = "graph.onnx"
"""The optimized model without its weights, in place of `MODEL`."""
REPORT = "report.json"


@dataclass(frozen=True)
class TensorInfo:
    """An input or output. Each dimension is a number, a name (the same name means the same size) or None (any size)."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Weight:
    """A tensor in the weights file, `offset` bytes from its beginning."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Memory:
    """Memory of intermediate values in bytes, without inputs, weights and results.

    `tensors` is the total, in whole pages, if each value has its own memory, except results that overwrite an operand
    in place; `live` is the maximum that is live at any kernel, a lower bound for every plan; `allocated` is what one
    run allocates, and keeps for the next. `sizes` names the open sizes of the model: each counts as 1.
    """

    tensors: int
    live: int
    allocated: int
    sizes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workloads:
    """The number of distinct convolutions and matmuls in a model, and how many were decided by measurements."""

    total: int = 0
    tuned: int = 0


@dataclass(frozen=True)
class File:
    """A file of the artifact: the SHA-256 of its content in hexadecimal, and its size."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`. `files` lists the other files of the folder by name.

    `error` maps each output to its largest deviation from ONNX Runtime relative to the output's largest value, or is
    None if it was not measured. `defaults` lists the inputs that may be omitted, with their places in the weights file.
    `device` is "cpu" or "cuda". `workloads` says how many kernels were tuned.
    """

    device: str
    machine: str
    features: tuple[str, ...]
    target: Mapping[str, Any]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    weights: tuple[Weight, ...]
    pipeline: str
    fidelity: str
    error: Mapping[str, float] | None
    versions: Mapping[str, str]
    memory: Memory
    workloads: Workloads = Workloads()
    runtime: tuple[str, ...] = ()
    defaults: Mapping[str, Weight] = field(default_factory=dict)
    files: Mapping[str, File] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the manifest as text, with keys in a fixed order."""
        return json.dumps({"kind": KIND, "format": FORMAT, **encode(self)}, indent=1, sort_keys=True) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an artifact folder and check its form. Raises ArtifactError."""
    where = str(folder)
    try:
        table = json.loads(member(folder, MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "is not an artifact: it has no manifest.json" if folder.is_dir() else "there is no such artifact"
        raise ArtifactError(what, where=where, remedy="name a .gopt folder that graphopt compile wrote") from error
    except OSError as error:
        raise ArtifactError(f"manifest.json cannot be read: {error.strerror}", where=where) from error
    except ValueError as error:
        raise ArtifactError("manifest.json is damaged", where=where, remedy="compile the model again") from error
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        version = table.get("format") if isinstance(table, dict) else None
        raise ArtifactError(
            f"has format {version!r}, and this graphopt reads format {FORMAT}",
            where=where,
            remedy="compile the model again with this version of graphopt, or install the version that wrote it",
        )
    try:
        return decode(Manifest, {name: value for name, value in table.items() if name not in ("kind", "format")})
    except DecodeError as error:
        raise ArtifactError(
            f"manifest.json is damaged: {error}", where=where, remedy="compile the model again"
        ) from None
