"""Reproducers: a folder from which a failure of a pass can be repeated without the rest of the pipeline."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt import io, registry
from graphopt.errors import GraphOptError
from graphopt.hardware import target as targets
from graphopt.hardware.target import Target
from graphopt.ir import Model
from graphopt.rewriting.pipeline import Observer, Pipeline, Step

if TYPE_CHECKING:
    from .numerical import CheckNumbers


class CrashReproducer(Observer):
    """Writes a reproducer when a pass raises or a check after it fails.

    A new folder inside `folder` gets the model before the pass (`model.onnx`), the inputs if numbers were checked
    (`inputs.npz`), and a `README.txt` with the failure, the pass as pipeline text and the command that repeats it. The
    folder's name is added to the remedy of the error. `numbers` is the observer whose inputs to save.
    """

    needs_before = True

    def __init__(self, folder: str | Path, numbers: CheckNumbers | None = None) -> None:
        self.folder = Path(folder)
        self.numbers = numbers
        self.written: Path | None = None
        self._pipeline = ""

    def begin(self, model: Model, pipeline: Pipeline) -> None:
        self._pipeline = str(pipeline)

    def failed(self, step: Step, model: Model, error: GraphOptError) -> None:
        inputs = self.numbers.inputs if self.numbers is not None else {}
        try:
            self.written = write_reproducer(self.folder, step, self._pipeline, error, inputs)
        except (GraphOptError, OSError) as failure:
            note = f"no reproducer could be written: {failure}"
        else:
            note = f"reproducer: {self.written}"
        error.remedy = f"{error.remedy}; {note}" if error.remedy else note


def write_reproducer(
    folder: Path,
    step: Step,
    pipeline: str,
    error: GraphOptError,
    inputs: Mapping[str, Any] | None = None,
) -> Path:
    """Write a reproducer of a failed step into a new folder inside `folder`, and return that folder.

    The step must have its model (see `Observer.needs_before`). Raises ModelError or OSError.
    """
    before = step.before
    assert before is not None
    place = _free(folder.resolve() / _slug(f"{Path(before.name).stem}-step{step.index}-{step.pass_.name}"))
    place.mkdir(parents=True)
    model = place / "model.onnx"
    io.save(before, model)
    command = [
        "graphopt",
        "optimize",
        str(model),
        "--passes",
        str(step.pass_),
        "--verify",
        "-o",
        str(place / "after.onnx"),
    ]
    if step.target is not None:
        command += ["--target", _target(step.target, place)]
    command += step.evaluation.options()
    cls = type(step.pass_)
    if registry.is_loaded(cls):
        command += ["--load", inspect.getsourcefile(cls) or cls.__module__]
    arrays = {name: array for name, array in (inputs or {}).items() if isinstance(array, np.ndarray)}
    if arrays and len(arrays) == len(inputs or {}):
        np.savez(place / "inputs.npz", **arrays)  # type: ignore[arg-type]
        command += ["--inputs", str(place / "inputs.npz")]
    text = _README.format(
        error=error, pass_=step.pass_, label=step.label, path=step.path, pipeline=pipeline, command=shlex.join(command)
    )
    (place / "README.txt").write_text(text, encoding="utf-8")
    return place


_README = """{error}

It failed in {label}, at {path} of the pipeline
  {pipeline}
model.onnx is the model as it was before that pass. To run only this pass on it:

  {command}
"""


def _target(target: Target, place: Path) -> str:
    """Return the `--target` argument for a target; one without an installed file, such as `host`, is saved."""
    if target.name in targets.files() and targets.load(target.name) == target:
        return target.name
    path = place / "target.toml"
    path.write_text(target.to_toml(), encoding="utf-8")
    return str(path)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:100] or "model"


def _free(path: Path) -> Path:
    """Return the path, or the first one with a number appended that does not exist yet."""
    candidate, number = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate
