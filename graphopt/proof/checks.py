"""Checks of a model: functions that return a complaint, or an empty text if everything is right.

Observers run them between passes; bisection runs them on the result of a part of a pipeline.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from graphopt import io
from graphopt.errors import GraphOptError
from graphopt.ir import DType, Model, verify
from graphopt.ir.inferable import write_inferable_model

from .oracle import Reference, refuses_empty
from .tolerance import Output, Tolerance, compare

Check = Callable[[Model], str]


def type_conflict(model: Model) -> str:
    """Return where a declared type contradicts the inferred one, or operands are incompatible; empty if nowhere."""
    # Without data propagation: that of onnx 1.23 forgets the rank of what it propagates, and then rejects the
    # subtraction of a
    # row of 6 numbers from a column of 4.
    try:
        onnx.shape_inference.infer_shapes(write_inferable_model(model), strict_mode=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0].removeprefix("[ShapeInferenceError] Inference error(s): ") if lines else str(error)
    return ""


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of a model: their names and dtypes, in order."""

    inputs: tuple[tuple[str, DType | None], ...] = ()
    outputs: tuple[tuple[str, DType | None], ...] = ()

    @classmethod
    def of(cls, model: Model) -> Interface:
        """Return the interface of a model; initializers that a caller may override are not among its inputs."""
        inputs, outputs = (
            tuple((value.name, value.dtype) for value in values if not value.is_initializer)
            for values in (model.graph.inputs, model.graph.outputs)
        )
        return cls(inputs, outputs)

    def conflict(self, model: Model) -> str:
        """Return how a model's interface differs from this one; empty if it does not."""
        now = Interface.of(model)
        for kind in ("inputs", "outputs"):
            before, after = getattr(self, kind), getattr(now, kind)
            if before != after:
                return f"the {kind} changed from {_ports(before)} to {_ports(after)}"
        return ""


def _ports(ports: tuple[tuple[str, DType | None], ...]) -> str:
    return ", ".join(f"{name} ({dtype.text if dtype else '?'})" for name, dtype in ports) or "none"


def numbers_check(inputs: Mapping[str, Any], expected: Mapping[str, Output], tolerance: Tolerance) -> Check:
    """Return a check that a model is valid and computes `expected` from `inputs`, within the tolerance."""
    return samples_check([inputs], [expected], tolerance)


def samples_check(
    samples: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Output]], tolerance: Tolerance
) -> Check:
    """Return a check that a model is valid and computes what is expected for each sample, within the tolerance."""

    def check(model: Model) -> str:
        try:
            verify(model)
            with Reference(model) as reference:
                for number, (inputs, outputs) in enumerate(zip(samples, expected, strict=True)):
                    if number > 0 and refuses_empty(reference, inputs):
                        continue
                    comparison = compare(outputs, reference.run(inputs), tolerance, empty=number > 0)
                    if not comparison.ok:
                        return str(comparison.worst)
        except GraphOptError as error:
            return error.message
        return ""

    return check


def command_check(command: str) -> Check:
    """Return a check that runs a command: exit status 0 means good, any other bad.

    `{model}` in the command stands for the path of the model; without it, the path is appended. Raises GraphOptError if
    the command cannot be started.
    """
    words = shlex.split(command)
    if not words:
        raise GraphOptError(
            "the check command is empty", remedy="give a command, for instance `python check.py {model}`"
        )

    def check(model: Model) -> str:
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            path = Path(folder) / "model.onnx"
            io.save(model, path)
            line = [word.replace("{model}", str(path)) for word in words]
            if line == words:
                line.append(str(path))
            try:
                done = subprocess.run(line, capture_output=True, text=True, errors="replace")
            except OSError as error:
                raise GraphOptError(
                    f"cannot be started: {error.strerror}", where=f"check command '{words[0]}'"
                ) from error
        if done.returncode == 0:
            return ""
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return f"the check command ended with status {done.returncode}" + (f": {said[-1]}" if said else "")

    return check
