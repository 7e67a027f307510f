"""The measured speed of a model before and after a change: both are compiled for this machine and run in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.hardware.target import Target
from graphopt.ir import Model
from graphopt.profiling.bench import Timing, interleave

from .backend import Progress
from .compiling import compile

_RUNS, _SECONDS = 50, 10.0


@dataclass(frozen=True)
class Speed:
    """Timed runs of the compiled models with the same inputs and one thread."""

    before: Timing
    after: Timing

    @property
    def ratio(self) -> float:
        """How many times as fast the changed model is, by the medians."""
        return self.before.p50 / self.after.p50

    def to_json(self) -> dict[str, Any]:
        """Return the times as JSON types."""
        return {"before": self.before.to_json(), "after": self.after.to_json(), "ratio": self.ratio}


def measure_speed(
    before: Model, after: Model, inputs: Mapping[str, Any], progress: Progress, target: Target | str = "host"
) -> Speed:
    """Compile both models for a target that runs here with the shapes of these inputs, and time them.

    Raises UnsupportedError and CompileError for a model that cannot be compiled.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    progress("speed: compiling the model before", 0.0)
    first = compile(before, target, inputs=shapes)
    progress("speed: compiling the model after", 0.4)
    second = compile(after, target, inputs=shapes)
    progress("speed: timing both", 0.8)
    runners = {"before": lambda: first.run(arrays), "after": lambda: second.run(arrays)}
    timings = interleave(runners, runs=_RUNS, seconds=_SECONDS)
    return Speed(timings["before"], timings["after"])
