"""Ranges for the quantization of activations, chosen from their statistics over samples.

Each method answers the same question: which numbers should the integers stand for? Those outside are clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from graphopt.errors import InputError

from .accumulators import HISTOGRAM_BINS, Accumulator, Histogram, Moving, Range
from .scales import IntegerScheme

Bounds = tuple[float, float]
Statistics = Mapping[str, Accumulator]
"""The accumulators of one value by kind."""


@dataclass(frozen=True)
class Calibration:
    """A method that chooses ranges, and the kinds of statistics it needs.

    `name`: one of METHODS. `percentile`: for the method of that name, the percentage of numbers on each side of zero
    that are kept.
    """

    name: str = "mse"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise InputError(
                f"there is no calibration '{self.name}'", remedy=f"the methods are: {', '.join(sorted(METHODS))}"
            )
        if not 50 <= self.percentile <= 100:
            raise InputError(f"a percentile of {self.percentile:g} is not in 50 to 100")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of statistics to collect."""
        return METHODS[self.name].kinds

    def bounds(self, statistics: Statistics, scheme: IntegerScheme) -> Bounds:
        """Return the smallest and largest number to be represented; (0, 0) if there were no finite numbers."""
        seen = statistics["range"]
        assert isinstance(seen, Range)
        if seen.low > seen.high:
            return 0.0, 0.0
        low, high = METHODS[self.name].choose(statistics, scheme, self)
        return max(low, seen.low), min(high, seen.high)


def _smallest_and_largest(statistics: Statistics, scheme: IntegerScheme, calibration: Calibration) -> Bounds:
    seen = statistics["range"]
    assert isinstance(seen, Range)
    return seen.low, seen.high


def _moving_average(statistics: Statistics, scheme: IntegerScheme, calibration: Calibration) -> Bounds:
    """Average the ranges of the samples, later ones more (Jacob et al., 2018, section 3.1)."""
    moving = statistics["moving"]
    assert isinstance(moving, Moving)
    return moving.low, moving.high


def _percentile(statistics: Statistics, scheme: IntegerScheme, calibration: Calibration) -> Bounds:
    """Keep a percentage of the numbers on each side of zero."""
    centers, counts, width = _bins(statistics)
    low = high = 0.0
    for positive in (False, True):
        side = centers > 0 if positive else centers < 0
        sizes, numbers = np.abs(centers[side]), counts[side]
        order = np.argsort(sizes)
        total = numbers.sum()
        if total:
            place = np.searchsorted(np.cumsum(numbers[order]), total * calibration.percentile / 100)
            edge = float(sizes[order][min(int(place), sizes.size - 1)] + width / 2)
            low, high = (low, edge) if positive else (-edge, high)
    return low, high


_SHRINK = np.geomspace(0.01, 1.0, 185)
"""The parts of a range that are tried, 2.5 % apart."""


def _least_error(statistics: Statistics, scheme: IntegerScheme, calibration: Calibration) -> Bounds:
    """Minimize the mean squared error: of rounding inside the range, of clipping outside.

    The two ends of an asymmetric range are moved in turn.
    """
    centers, counts, _ = _bins(statistics)
    seen = statistics["range"]
    assert isinstance(seen, Range)
    counts = counts.copy()
    middle = HISTOGRAM_BINS // 2
    counts[middle] = max(counts[middle] - seen.zeros, 0)  # zero is exact, whatever the range
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    errors = _Errors(centers, counts, scheme)
    if scheme.symmetric:
        widest = max(-low, high)
        best = _SHRINK[np.argmin(errors.of(-_SHRINK * widest, _SHRINK * widest))]
        return -best * widest, best * widest
    for side in (0, 1, 0, 1):
        full = min(seen.low, 0.0) if side == 0 else max(seen.high, 0.0)
        ends = (
            (_SHRINK * full, np.full(_SHRINK.shape, high))
            if side == 0
            else (np.full(_SHRINK.shape, low), _SHRINK * full)
        )
        best = int(np.argmin(errors.of(*ends)))
        low, high = float(ends[0][best]), float(ends[1][best])
    return low, high


class _Errors:
    """The squared errors of quantization to ranges, summed over a histogram, from sums over its first so many bins."""

    def __init__(self, centers: np.ndarray, counts: np.ndarray, scheme: IntegerScheme) -> None:
        self.centers, self.scheme = centers, scheme
        powers = np.stack([counts * centers**power for power in range(3)])
        self.sums = np.concatenate([np.zeros((3, 1)), np.cumsum(powers, axis=1)], axis=1)

    def of(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return the error of each range: of rounding inside, of clipping outside."""
        scale = self.scheme.fit(low, high).scale.astype(np.float64)
        first = self.sums[:, np.searchsorted(self.centers, low, "left")]
        last = self.sums[:, np.searchsorted(self.centers, high, "right")]
        inside = last[0] - first[0]
        clipped: np.ndarray = scale * scale / 12 * inside
        for (number, total, squares), end in ((first, low), (self.sums[:, -1:] - last, high)):
            clipped += np.maximum(squares - 2 * end * total + end * end * number, 0)
        return clipped


def _least_divergence(statistics: Statistics, scheme: IntegerScheme, calibration: Calibration) -> Bounds:
    """Minimize the Kullback-Leibler divergence of the histogram of magnitudes from its quantized form.

    Szymon Migacz, "8-bit inference with TensorRT" (GTC 2017).
    """
    _, counts, width = _bins(statistics)
    half = HISTOGRAM_BINS // 2
    magnitudes = (counts[half:] + counts[:half][::-1]).astype(np.float64)
    magnitudes[0] = 0.0  # zeros cost nothing, but would outweigh everything else after a ReLU
    used = int(np.flatnonzero(magnitudes).max(initial=0)) + 1
    first, last = scheme.limits
    both = bool((counts[:half] > 0).any()) or scheme.symmetric
    levels = (last - first + 1) // 2 if both else last - first + 1
    if used <= levels:
        return -used * width, used * width
    tried = range(levels, used + 1, max(1, (used - levels) // 256))
    best = min([*tried, used], key=lambda n: _divergence(magnitudes, n, levels))
    return -best * width, best * width


def _divergence(magnitudes: np.ndarray, kept: int, levels: int) -> float:
    """Return the divergence if the first `kept` bins are quantized to so many levels, and the others clipped."""
    clipped = magnitudes[:kept].copy()
    clipped[-1] += magnitudes[kept:].sum()
    if not clipped.sum():
        return 0.0
    level = np.minimum(np.arange(kept) * levels // kept, levels - 1)
    present = magnitudes[:kept] > 0
    sums = np.bincount(level, magnitudes[:kept], minlength=levels)
    bins = np.bincount(level, present, minlength=levels)
    spread = np.where(present, (sums / np.maximum(bins, 1))[level], 0.0)
    p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1e-300)
    where = p > 0
    return float((p[where] * np.log(p[where] / np.maximum(q[where], 1e-10))).sum())


def _bins(statistics: Statistics) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the centers of a histogram's bins, the numbers in each, and the width of a bin."""
    histogram = statistics["histogram"]
    assert isinstance(histogram, Histogram)
    width = 2 * histogram.limit / HISTOGRAM_BINS
    centers = (np.arange(HISTOGRAM_BINS) + 0.5 - HISTOGRAM_BINS / 2) * width
    return centers, histogram.counts, width


@dataclass(frozen=True)
class _Method:
    choose: Callable[[Statistics, IntegerScheme, Calibration], Bounds]
    kinds: tuple[str, ...]


METHODS: dict[str, _Method] = {
    "min-max": _Method(_smallest_and_largest, ("range",)),
    "moving-average": _Method(_moving_average, ("range", "moving")),
    "percentile": _Method(_percentile, ("range", "histogram")),
    "mse": _Method(_least_error, ("range", "histogram")),
    "entropy": _Method(_least_divergence, ("range", "histogram")),
}
"""The methods by name."""
