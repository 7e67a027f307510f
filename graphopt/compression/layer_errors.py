"""The error of each layer's results after a lossy change: how much noise is in them, compared with the float model.

Unlike the sensitivity of a layer, it contains what layers before it have added; both models run on a few samples only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from graphopt.data.samples import Samples
from graphopt.ir import Model
from graphopt.util.tables import Table

from .layers import Layer
from .products import affordable
from .statistics import DEFAULT_MEMORY, Progress, groups_within, observe, sizes_of

_FLOPS = 1e11
_MOST, _LEAST = 32, 4


@dataclass(frozen=True)
class ResultError:
    """The error of one layer's results: their mean noise over their mean signal, on `samples` samples."""

    layer: str
    op: str
    noise: float
    samples: int

    @property
    def sqnr(self) -> float:
        """Signal over noise in decibels: more is better; infinite where nothing changed."""
        return decibels(self.noise)


def decibels(noise: float) -> float:
    """Return a share of noise as decibels of signal over noise."""
    return math.inf if noise <= 0 else -10 * math.log10(noise)


def result_errors(
    floats: Model, changed: Model, layers: Sequence[Layer], samples: Samples, progress: Progress | None = None
) -> list[ResultError]:
    """Return the errors of those layers of `floats` whose results `changed` has too, as floats, in the given order.

    Both models run on the first samples, with the results of as many layers as fit into memory at a time.
    """
    wanted = [layer for layer in layers if _has(floats, layer.result) and _has(changed, layer.result)]
    count = min(affordable(floats, samples, _FLOPS, _LEAST), _MOST)
    names = list(dict.fromkeys(layer.result for layer in wanted))
    signal, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for group in groups_within(names, sizes_of(floats, samples), DEFAULT_MEMORY // 2):
        runs = (observe(model, group, itertools.islice(samples, count)) for model in (floats, changed))
        for number, (before, after) in enumerate(zip(*runs, strict=True)):
            if progress is not None:
                progress(f"errors of layers, sample {number + 1}", number / count)
            for name in group:
                was, now = (np.asarray(array[name], np.float32) for array in (before, after))
                signal[name] += _power(was)
                noise[name] += _power(now - was)
    return [
        ResultError(layer.name, layer.op, _share(noise[layer.result], signal[layer.result]), count) for layer in wanted
    ]


def _has(model: Model, name: str) -> bool:
    value = model.graph.find(name)
    return value is not None and value.producer is not None and value.dtype is not None and value.dtype.is_float


def _power(array: np.ndarray) -> float:
    return float(np.square(array).sum(dtype=np.float64))


def _share(noise: float, signal: float) -> float:
    """Return noise over signal; infinite if a result of zeros has become anything else, or is no number."""
    if not math.isfinite(noise):
        return math.inf
    return noise / signal if signal else (math.inf if noise else 0.0)


def results_table(errors: Sequence[ResultError], most: int) -> Table:
    """Return one row per layer, the noisiest first, at most so many."""
    worst = sorted(errors, key=lambda one: -one.noise)[:most]
    title = "results of layers, against the float model"
    if len(worst) < len(errors):
        title += f": the {len(worst)} noisiest of {len(errors)}"
    table = Table(title, ("layer", "SQNR"), right=frozenset({"SQNR"}))
    for one in worst:
        table.add(f"{one.op} '{one.layer}'", "-" if math.isinf(one.sqnr) else f"{one.sqnr:.1f} dB")
    return table


def results_json(errors: Sequence[ResultError]) -> list[dict[str, Any]]:
    """Return the figures as JSON types, in the order of the model."""
    return [{**asdict(one), "sqnr": one.sqnr} for one in errors]
