"""Checks of a model: functions that return a complaint, or an empty text if there is nothing to complain of.

Observers run them between passes, bisection runs them on what a part of a pipeline made.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

from graphopt import io
from graphopt.errors import GraphOptError
from graphopt.ir import Model, verify
from graphopt.ir.infer import without_weights
from graphopt.ir.write_proto import write_model

from .oracle import Reference
from .tolerance import Comparison, Output, Tolerance, compare

Check = Callable[[Model], str]


def type_conflict(model: Model) -> str:
    """Where a declared type contradicts the inferred one, or operands do not fit each other; empty if nowhere."""
    # Without data propagation: that of onnx 1.23 forgets the rank of what it propagates, and then finds that a column
    # of 4 and a row of 6 numbers cannot be subtracted.
    try:
        onnx.shape_inference.infer_shapes(write_model(model, without_weights), strict_mode=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0].removeprefix("[ShapeInferenceError] Inference error(s): ") if lines else str(error)
    return ""


def interface_conflict(before: Model, after: Model) -> str:
    """Whether inputs or outputs changed: their names, order or dtypes."""
    for kind in ("inputs", "outputs"):
        left = [(value.name, value.dtype) for value in getattr(before.graph, kind) if not value.is_initializer]
        right = [(value.name, value.dtype) for value in getattr(after.graph, kind) if not value.is_initializer]
        if left != right:
            return f"the {kind} were {_ports(left)} and are {_ports(right)}"
    return ""


def _ports(ports: list[Any]) -> str:
    return ", ".join(f"{name} ({dtype.text if dtype else '?'})" for name, dtype in ports) or "none"


def measure(
    model: Model, inputs: Mapping[str, Any], expected: Mapping[str, Output], tolerance: Tolerance
) -> tuple[dict[str, Output], Comparison]:
    """What a model computes by ONNX Runtime, and how that compares with what is expected.

    Raises OracleError if ONNX Runtime cannot load or run it.
    """
    with Reference(model) as reference:
        outputs = reference.run(inputs)
    return outputs, compare(expected, outputs, tolerance)


def numbers_check(inputs: Mapping[str, Any], expected: Mapping[str, Output], tolerance: Tolerance) -> Check:
    """A check that a model is sound and computes `expected` from `inputs`, within the tolerance."""

    def check(model: Model) -> str:
        try:
            verify(model)
            _, comparison = measure(model, inputs, expected, tolerance)
        except GraphOptError as error:
            return error.message
        return "" if comparison.ok else str(comparison.worst)

    return check


def command_check(command: str) -> Check:
    """A check by a command: exit status 0 means good, any other bad.

    `{model}` in the command stands for the path of the model; without it, the path is added at the end.
    Raises GraphOptError if the command cannot be started.
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
