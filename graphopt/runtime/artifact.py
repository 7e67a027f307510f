"""The compiled model on disk: a folder `name.gopt` with a manifest that says what is in it and what it needs.

Reading a manifest needs only the standard library, so that the runtime stays light. The files of the folder hold
neither times nor paths: building twice gives the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import ArtifactError
from graphopt.util.files import umask

if TYPE_CHECKING:
    import numpy as np

    from graphopt.runtime.session import Session

FORMAT = 2
KIND = "graphopt artifact"
MANIFEST = "manifest.json"
LIBRARY = "lib.so"
WEIGHTS = "weights.bin"
MODEL = "model.onnx"
REPORT = "report.json"
_SUFFIX = ".gopt"


@dataclass(frozen=True)
class TensorInfo:
    """An input or output. A dimension is a number, a name (the same name, the same size) or None (any size)."""

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
    """Bytes of the values between kernels, without inputs, weights and results.

    `tensors` is what they take together, in whole pages, if each has memory of its own, but for results that are
    written over an operand; `live` the most that any kernel finds alive at once, which no plan can do without;
    `allocated` what one run takes from the system, and keeps for the next.
    `sizes` names the sizes that the model leaves open: each counts as 1.
    """

    tensors: int
    live: int
    allocated: int
    sizes: tuple[str, ...] = ()

    @staticmethod
    def of(entry: Mapping[str, Any]) -> Memory:
        """What was written as JSON. Raises KeyError, TypeError or ValueError for what is not of that form."""
        sizes = tuple(str(size) for size in entry["sizes"])
        return Memory(int(entry["tensors"]), int(entry["live"]), int(entry["allocated"]), sizes)


@dataclass(frozen=True)
class Workloads:
    """Distinct sizes of convolutions and products in a model: how many, and how many were decided by measurements."""

    total: int = 0
    tuned: int = 0

    @staticmethod
    def of(entry: Mapping[str, Any]) -> Workloads:
        """What was written as JSON. Raises KeyError, TypeError or ValueError for what is not of that form."""
        return Workloads(int(entry["total"]), int(entry["tuned"]))


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says. `files` maps each other file's name to its SHA-256 and size.

    `error` maps each output to the largest deviation from ONNX Runtime relative to the output's largest value, or
    is None when it was not measured. `device` is "cpu" or "cuda". The artifact is tuned where `workloads` has any
    that are.
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
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_json(self) -> str:
        """The manifest's text: keys in a fixed order, no times and no paths."""
        return json.dumps({"kind": KIND, "format": FORMAT, **dataclasses.asdict(self)}, indent=1, sort_keys=True) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact folder, checked for its form. Raises ArtifactError."""
    where = str(folder)
    try:
        table = json.loads(member(folder, MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "is not an artifact: it has no manifest.json" if folder.is_dir() else "there is no such artifact"
        raise ArtifactError(what, where=where, remedy="give the .gopt folder that graphopt compile wrote") from error
    except OSError as error:
        raise ArtifactError(f"manifest.json cannot be read: {error.strerror}", where=where) from error
    except ValueError as error:
        raise ArtifactError("manifest.json is damaged", where=where, remedy="compile the model again") from error
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        version = table.get("format") if isinstance(table, dict) else None
        raise ArtifactError(
            f"has format {version!r}, and this graphopt reads format {FORMAT}",
            where=where,
            remedy="compile the model again with this graphopt, or install the one that made it",
        )
    try:
        return _parse(table)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"manifest.json is damaged: {type(error).__name__} {error}", where=where, remedy="compile the model again"
        ) from error


def _parse(table: Mapping[str, Any]) -> Manifest:
    def tensors(key: str) -> tuple[TensorInfo, ...]:
        return tuple(TensorInfo(str(t["name"]), str(t["dtype"]), tuple(t["shape"])) for t in table[key])

    return Manifest(
        device=str(table["device"]),
        machine=str(table["machine"]),
        features=tuple(str(f) for f in table["features"]),
        target=dict(table["target"]),
        inputs=tensors("inputs"),
        outputs=tensors("outputs"),
        weights=tuple(
            Weight(str(w["dtype"]), tuple(int(d) for d in w["shape"]), int(w["offset"])) for w in table["weights"]
        ),
        pipeline=str(table["pipeline"]),
        fidelity=str(table["fidelity"]),
        error=None if table["error"] is None else {str(k): float(v) for k, v in table["error"].items()},
        versions={str(k): str(v) for k, v in table["versions"].items()},
        memory=Memory.of(table["memory"]),
        workloads=Workloads.of(table["workloads"]),
        runtime=tuple(str(r) for r in table["runtime"]),
        files={
            str(name): {"sha256": str(entry["sha256"]), "bytes": int(entry["bytes"])}
            for name, entry in table["files"].items()
        },
    )


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
            digest = sha256(path) if size == entry["bytes"] else ""
        except FileNotFoundError as error:
            raise ArtifactError(f"{name} is missing", where=where, remedy=again) from error
        except OSError as error:
            raise ArtifactError(f"{name} cannot be read: {error.strerror}", where=where) from error
        if size != entry["bytes"]:
            raise ArtifactError(f"{name} has {size:,} bytes instead of {entry['bytes']:,}", where=where, remedy=again)
        if digest != entry["sha256"]:
            raise ArtifactError(f"{name} is altered: its SHA-256 is another", where=where, remedy=again)


def member(folder: Path, name: str) -> Path:
    """The path of a file of the artifact. Raises ArtifactError for a name or a link that leads out of the folder."""
    path = folder / name
    plain = name not in ("", ".", "..") and "\0" not in name and os.path.basename(name) == name
    if plain:
        try:
            plain = stat.S_ISREG(path.lstat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return path
        except OSError as error:
            raise ArtifactError(f"{name} cannot be read: {error.strerror}", where=str(folder)) from error
    if not plain:
        raise ArtifactError(
            f"manifest.json names {name!r}, which is not a plain file of this folder",
            where=str(folder),
            remedy="do not use this artifact; compile the model again",
        )
    return path


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` with the digests of all other files that are in the folder now."""
    files = {
        path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    text = dataclasses.replace(manifest, files=files).to_json()
    (folder / MANIFEST).write_text(text, encoding="utf-8")


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
    def load(path: str | os.PathLike[str]) -> Artifact:
        """The artifact in that folder; every file's digest is checked. Raises ArtifactError."""
        artifact = Artifact(Path(path))
        check_files(artifact.folder, artifact.manifest)
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
            from graphopt import runtime

            self._session = runtime.load(self.folder)
        return self._session.run(inputs)

    @property
    def nbytes(self) -> int:
        """Bytes of all files of the folder."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def __repr__(self) -> str:
        return f"Artifact({str(self.folder)!r}, target={self.manifest.target.get('name')!r})"


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
