"""Distributions of errors in bounded memory: count, mean, approximate percentiles, and maximum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .tolerance import Output, relative_errors

_LOW, _HIGH = -16, 4  # decades
_BINS_A_DECADE = 50  # neighbours differ by 5 percent


@dataclass
class Spread:
    """The distribution of errors seen so far. Two of them can be merged; percentiles are accurate to 5 percent."""

    count: int = 0
    total: float = 0.0
    largest: float = 0.0
    bins: np.ndarray = field(default_factory=lambda: np.zeros((_HIGH - _LOW) * _BINS_A_DECADE + 2, np.int64))

    def add(self, errors: np.ndarray) -> None:
        """Count errors, which are not negative; what is not finite counts as infinite."""
        if errors.size == 0:
            return
        flat = np.where(np.isfinite(errors), errors, np.inf).ravel().astype(np.float64)
        self.count += flat.size
        self.total += float(flat.sum())
        self.largest = max(self.largest, float(flat.max()))
        with np.errstate(divide="ignore"):
            place = np.floor((np.log10(flat) - _LOW) * _BINS_A_DECADE) + 1
        place = np.clip(place, 0, len(self.bins) - 1).astype(np.int64)
        self.bins += np.bincount(place, minlength=len(self.bins))

    def merge(self, other: Spread) -> None:
        """Count what another has counted too."""
        self.count += other.count
        self.total += other.total
        self.largest = max(self.largest, other.largest)
        self.bins += other.bins

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """Return the error that `percent` of the elements do not exceed, at most 5 percent too high."""
        if not self.count:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self.bins), self.count * percent / 100))
        if place == 0:
            return 0.0
        if place >= len(self.bins) - 1:
            return self.largest
        return float(min(10 ** (_LOW + place / _BINS_A_DECADE), self.largest))

    def to_json(self) -> dict[str, Any]:
        """The figures that reports show."""
        return {
            "elements": self.count,
            "mean": self.mean,
            "p99": self.percentile(99),
            "max": self.largest,
        }


class OutputErrors:
    """The spread of relative errors of each output, over as many samples as are added."""

    def __init__(self) -> None:
        self.outputs: dict[str, Spread] = {}
        self.samples = 0

    def add(self, expected: Mapping[str, Output], got: Mapping[str, Output]) -> None:
        """Count the outputs of one sample; outputs of another shape or structure count as infinite errors."""
        self.samples += 1
        for name, output in expected.items():
            spread = self.outputs.setdefault(name, Spread())
            for errors in relative_errors(output, got.get(name)):
                spread.add(errors)

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The figures by output."""
        return {name: spread.to_json() for name, spread in self.outputs.items()}
