"""Metrics of a model's outputs over many samples, behind one interface: the meaning of "as good as before".

A metric creates a `Meter`, which sees the outputs of one sample after the other and keeps only sums. The loss of each
metric is expressed in one unit, in which 0 is as good as the original and 0.01 is one percent worse, so that one budget
serves all of them.
"""

from __future__ import annotations

import difflib
import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import GraphOptError, InputError

from .spread import OutputErrors, Spread
from .tolerance import Output

LABELS = "labels"
"""The name of the array of correct classes in a validation set."""

Outputs = Mapping[str, Output]


class Meter(ABC):
    """Measures one model over many samples."""

    @abstractmethod
    def add(self, expected: Outputs, got: Outputs, wanted: Mapping[str, Any] | None = None) -> None:
        """Count one sample: the original's outputs, those of the measured model, and the expected results if known."""

    @property
    @abstractmethod
    def value(self) -> float:
        """The metric over all samples so far."""


@dataclass(frozen=True)
class Metric:
    """A metric by name. `higher`: more is better; `needs_labels`: it needs a validation set."""

    name: str
    summary: str
    start: Callable[[], Meter]
    higher: bool = False
    needs_labels: bool = False
    decibels: bool = False

    @classmethod
    def parse(cls, text: str) -> Metric:
        """Return a metric of `METRICS`, or one for the user's function `module:function`.

        The function gets two dictionaries for a sample, the model's outputs and the expected ones (from the validation
        set, or the original's outputs), and returns a number of which more is better. Raises InputError if there is no
        such metric or function.
        """
        if text in METRICS:
            return METRICS[text]
        if ":" in text:
            function = _load(text)
            return cls(text, "your function", lambda: _Custom(function, text), higher=True)
        near = difflib.get_close_matches(text, METRICS, 1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise InputError(
            f"there is no metric '{text}'", remedy=f"{hint}the metrics are: {', '.join(METRICS)}, or module:function"
        )

    def loss(self, value: float, base: float) -> float:
        """Return the loss at `value` if the original has `base`; never negative, infinite for NaN."""
        if math.isnan(value):
            return math.inf
        if self.decibels:
            return 10 ** (-value / 20)
        return max(0.0, base - value if self.higher else value - base)


def _load(text: str) -> Callable[..., Any]:
    module, _, name = text.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the metric '{text}' cannot be loaded: {error}",
            remedy="write module:function, with a module that can be imported",
        ) from error
    if not callable(function):
        raise InputError(f"the metric '{text}' is not a function")
    found: Callable[..., Any] = function
    return found


class _Errors(Meter):
    """A figure of the relative errors of all outputs: the worst output counts."""

    def __init__(self, figure: Callable[[Spread], float]) -> None:
        self.figure = figure
        self.errors = OutputErrors()

    def add(self, expected: Outputs, got: Outputs, wanted: Mapping[str, Any] | None = None) -> None:
        self.errors.add(expected, got)

    @property
    def value(self) -> float:
        return max((self.figure(spread) for spread in self.errors.outputs.values()), default=math.nan)


class _Sqnr(Meter):
    """Signal over noise in decibels, of the worst output."""

    def __init__(self) -> None:
        self.powers: dict[str, tuple[float, float]] = {}

    def add(self, expected: Outputs, got: Outputs, wanted: Mapping[str, Any] | None = None) -> None:
        for name, left, right in _pairs(expected, got):
            signal, noise = self.powers.get(name, (0.0, 0.0))
            self.powers[name] = signal + float(np.sum(left**2)), noise + float(np.sum((right - left) ** 2))

    @property
    def value(self) -> float:
        return min((_decibels(*powers) for powers in self.powers.values()), default=math.nan)


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else -math.inf


class _Cosine(Meter):
    """The cosine of the angle between the outputs, of the worst output, averaged over samples."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, int]] = {}

    def add(self, expected: Outputs, got: Outputs, wanted: Mapping[str, Any] | None = None) -> None:
        for name, left, right in _pairs(expected, got):
            scale = float(np.linalg.norm(left) * np.linalg.norm(right))
            cosine = float(np.vdot(left, right)) / scale if scale else float(np.array_equal(left, right))
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + cosine, count + 1

    @property
    def value(self) -> float:
        return min((total / count for total, count in self.sums.values()), default=math.nan)


class _Top1(Meter):
    """The share of positions whose largest element along the last axis of the first output is the expected one."""

    def __init__(self, labelled: bool) -> None:
        self.labelled = labelled
        self.right = self.count = 0

    def add(self, expected: Outputs, got: Outputs, wanted: Mapping[str, Any] | None = None) -> None:
        name, scores = _scores(got)
        answers = scores.argmax(axis=-1).ravel()
        if self.labelled:
            if wanted is None or LABELS not in wanted:
                raise InputError(f"the validation set has no '{LABELS}'", remedy=f"add an integer array '{LABELS}'")
            right = _labels(wanted[LABELS], name, scores.shape[-1])
        else:
            right = np.asarray(expected[name]).argmax(axis=-1).ravel()
        if right.shape != answers.shape:
            raise InputError(f"there are {right.size} labels for {answers.size} answers of output '{name}'")
        self.right += int((answers == right).sum())
        self.count += answers.size

    @property
    def value(self) -> float:
        return self.right / self.count if self.count else math.nan


def _labels(labels: Any, name: str, classes: int) -> np.ndarray:
    array = np.asarray(labels).ravel()
    if array.dtype.kind not in "iu":
        raise InputError(f"'{LABELS}' are {array.dtype}, not integers", remedy="store the number of each class, from 0")
    wrong = array[(array < 0) | (array >= classes)]
    if wrong.size:
        raise InputError(
            f"label {wrong[0]} is not one of the {classes} classes of output '{name}'",
            remedy=f"number the classes from 0 to {classes - 1}",
        )
    return array


def _scores(outputs: Outputs) -> tuple[str, np.ndarray]:
    for name, output in outputs.items():
        if isinstance(output, np.ndarray) and output.ndim and output.size and output.dtype.kind in "fV":
            return name, output.astype(np.float64) if output.dtype.kind == "V" else output
    raise InputError("no output is an array of floating-point scores", remedy="choose another metric")


class _Custom(Meter):
    """The mean of the user's function."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function, self.name = function, name
        self.total, self.count = 0.0, 0

    def add(self, expected: Outputs, got: Outputs, wanted: Mapping[str, Any] | None = None) -> None:
        try:
            self.total += float(self.function(dict(got), dict(wanted or expected)))
        except GraphOptError:
            raise
        except Exception as error:  # whatever the user's code raises
            raise InputError(f"the metric '{self.name}' raised {type(error).__name__}: {error}") from error
        self.count += 1

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else math.nan


def _pairs(expected: Outputs, got: Outputs) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return the numeric arrays by name, as float64; an array of the wrong shape is compared with NaN."""
    pairs = []
    for name, output in expected.items():
        if not isinstance(output, np.ndarray) or output.dtype.kind in "OSU" or not output.size:
            continue
        left, other = output.astype(np.float64), got.get(name)
        if isinstance(other, np.ndarray) and other.shape == left.shape:
            pairs.append((name, left, other.astype(np.float64)))
        else:
            pairs.append((name, left, np.full_like(left, np.nan)))
    return pairs


METRICS = {
    metric.name: metric
    for metric in (
        Metric("error-max", "largest relative error of any element", lambda: _Errors(lambda s: s.largest)),
        Metric("error-mean", "mean relative error", lambda: _Errors(lambda s: s.mean)),
        Metric("error-p99", "relative error that 99 % do not exceed", lambda: _Errors(lambda s: s.percentile(99))),
        Metric("sqnr", "signal to noise in decibels", _Sqnr, higher=True, decibels=True),
        Metric("cosine", "cosine similarity of outputs", _Cosine, higher=True),
        Metric("top1", "agreement of the top answer", lambda: _Top1(False), higher=True),
        Metric("accuracy", "top answers that are right", lambda: _Top1(True), higher=True, needs_labels=True),
    )
}
"""The metrics by name. Errors are relative to the largest magnitude of the output they are in."""
