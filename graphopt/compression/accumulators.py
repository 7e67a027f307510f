"""Statistics of a stream of arrays: range, moments, a histogram, ranges by channel. All are small and can be merged."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np

from graphopt.errors import InputError

HISTOGRAM_BINS = 2048
_MOST = 1 << 15
"""How many numbers of an array a histogram counts: those of hundreds of samples are more than enough for its bins."""


@dataclass(frozen=True)
class Numbers:
    """An array, and what several accumulators ask about it: its finite numbers, the smallest and the largest.

    `finite` is not a copy if all are finite, but for floats of 16 bits, which become float32.
    """

    array: np.ndarray
    finite: np.ndarray
    low: float
    high: float

    @classmethod
    def of(cls, array: np.ndarray) -> Self:
        plain = array.astype(np.float32) if array.dtype.kind == "V" or array.dtype.itemsize < 4 else array
        low, high = _ends(plain)
        if not (math.isfinite(low) and math.isfinite(high)):
            plain = plain[np.isfinite(plain)]
            low, high = _ends(plain)
        return cls(array, plain, low, high)

    def some(self, step: int) -> np.ndarray:
        """Return those numbers that are finite of the array's first, of that `step` places later, and so on."""
        if self.finite.size == self.array.size:
            return self.finite.reshape(-1)[::step]
        return Numbers.of(self.array.reshape(-1)[::step]).finite


def _ends(array: np.ndarray) -> tuple[float, float]:
    return (float(array.min()), float(array.max())) if array.size else (math.inf, -math.inf)


@dataclass
class Accumulator(ABC):
    """An object that sees arrays one after the other and keeps statistics of bounded size.

    NaN and infinities are counted in `Range.strange` and otherwise ignored.
    """

    kind: ClassVar[str]

    def add(self, array: np.ndarray) -> None:
        """See one more array."""
        self.see(Numbers.of(array))

    @abstractmethod
    def see(self, numbers: Numbers) -> None:
        """See one more array, about which others ask too."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """See what another one has seen."""

    def state(self) -> dict[str, Any]:
        """What it keeps, as numbers and arrays by name; `of` reads it back."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """The accumulator whose `state` this is. Raises TypeError or ValueError for anything else."""
        made = cls()
        for f in fields(cls):
            value, default = state[f.name], getattr(made, f.name)
            setattr(made, f.name, np.asarray(value, default.dtype) if isinstance(default, np.ndarray) else value)
        return made


@dataclass
class Range(Accumulator):
    """The smallest and largest number, how many there were, and how many of them were zero or not finite."""

    kind: ClassVar[str] = "range"
    low: float = math.inf
    high: float = -math.inf
    count: int = 0
    zeros: int = 0
    strange: int = 0

    def see(self, numbers: Numbers) -> None:
        self.count += numbers.array.size
        self.strange += numbers.array.size - numbers.finite.size
        self.zeros += int(np.count_nonzero(numbers.finite == 0))
        self.low, self.high = min(self.low, numbers.low), max(self.high, numbers.high)

    def merge(self, other: Self) -> None:
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.count += other.count
        self.zeros += other.zeros
        self.strange += other.strange


MOMENTUM = 0.9
"""The weight of the past in a moving average, once there have been many samples."""


@dataclass
class Moving(Accumulator):
    """The average range of the arrays seen; the last ones count most, the first few equally."""

    kind: ClassVar[str] = "moving"
    low: float = 0.0
    high: float = 0.0
    count: int = 0

    def see(self, numbers: Numbers) -> None:
        if numbers.finite.size:
            self._join(numbers.low, numbers.high, 1.0 - min(MOMENTUM, self.count / (self.count + 1)))
            self.count += 1

    def merge(self, other: Self) -> None:
        if other.count:
            self._join(other.low, other.high, other.count / (self.count + other.count))
            self.count += other.count

    def _join(self, low: float, high: float, weight: float) -> None:
        self.low += (low - self.low) * weight
        self.high += (high - self.high) * weight


@dataclass
class Moments(Accumulator):
    """Mean and variance, by updates that do not cancel."""

    kind: ClassVar[str] = "moments"
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """The sum of the squared distances from the mean."""

    def see(self, numbers: Numbers) -> None:
        finite = numbers.finite.astype(np.float64)
        if finite.size:
            mean = float(finite.mean())
            self._join(finite.size, mean, float(np.square(finite - mean).sum()))

    def merge(self, other: Self) -> None:
        self._join(other.count, other.mean, other.squares)

    def _join(self, count: int, mean: float, squares: float) -> None:
        total = self.count + count
        if not total:
            return
        apart = mean - self.mean
        self.squares += squares + apart * apart * self.count * count / total
        self.mean += apart * count / total
        self.count = total

    @property
    def deviation(self) -> float:
        return math.sqrt(self.squares / self.count) if self.count else 0.0


@dataclass
class Histogram(Accumulator):
    """Counts in equal bins from `-limit` to `limit`, which doubles when a number lies outside: bins join in pairs.

    Of a large array, numbers at evenly spread places are counted, each for those that lie between two places.
    """

    kind: ClassVar[str] = "histogram"
    limit: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(HISTOGRAM_BINS, np.int64))
    zeros: int = 0
    """Zeros seen before any other number, when there was no limit yet."""

    def see(self, numbers: Numbers) -> None:
        step = -(-numbers.array.size // _MOST) | 1  # odd, so that places do not fall into one column of an image
        some = numbers.some(step).astype(np.float64)
        largest = max(-float(some.min(initial=0.0)), float(some.max(initial=0.0)))
        if largest == 0 and self.limit == 0:
            self.zeros += some.size * step
            return
        self._widen(largest)
        half = HISTOGRAM_BINS // 2
        some *= half / self.limit
        place = np.floor(some, out=some).astype(np.int64) + half
        place[place == HISTOGRAM_BINS] -= 1  # the limit itself
        self.counts += step * np.bincount(place, minlength=HISTOGRAM_BINS)

    def merge(self, other: Self) -> None:
        if other.limit:
            self._widen(other.limit)
            copy = Histogram(other.limit, other.counts.copy())
            copy._widen(self.limit)
            self.counts += copy.counts
        if self.limit:
            self.counts[HISTOGRAM_BINS // 2] += other.zeros
        else:
            self.zeros += other.zeros

    def _widen(self, largest: float) -> None:
        """Make the limit a power of two that is not below `largest`."""
        if self.limit == 0:
            self.limit = 2.0 ** math.ceil(math.log2(largest))
            self.counts[HISTOGRAM_BINS // 2] += self.zeros
            self.zeros = 0
        while self.limit < largest:
            joined = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros_like(self.counts)
            self.counts[HISTOGRAM_BINS // 4 : 3 * HISTOGRAM_BINS // 4] = joined
            self.limit *= 2

    def percentile(self, percent: float) -> float:
        """The number that so many percent of the magnitudes do not exceed, to the width of a bin."""
        half = HISTOGRAM_BINS // 2
        magnitudes = self.counts[half:] + self.counts[:half][::-1]
        total = int(magnitudes.sum())
        if not total:
            return 0.0
        place = int(np.searchsorted(np.cumsum(magnitudes), total * percent / 100))
        return (min(place, half - 1) + 1) * self.limit / half


@dataclass
class Channels(Accumulator):
    """The range of each channel, and the sum of its squares: along axis 1, or the last axis of arrays with three, as
    sequences have them.

    `count`: how many numbers of a channel there were; those that are not finite count as zeros.
    """

    kind: ClassVar[str] = "channels"
    count: int = 0
    low: np.ndarray = field(default_factory=lambda: np.zeros(0))
    high: np.ndarray = field(default_factory=lambda: np.zeros(0))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def see(self, numbers: Numbers) -> None:
        array = numbers.array
        if array.ndim < 2 or not array.size:
            return
        axis = 2 if array.ndim == 3 else 1
        rest = tuple(i for i in range(array.ndim) if i != axis)
        finite = np.isfinite(array)
        plain = array.astype(np.float64)
        low = np.min(plain, axis=rest, where=finite, initial=np.inf)
        high = np.max(plain, axis=rest, where=finite, initial=-np.inf)
        self._join(array.size // array.shape[axis], low, high, np.square(plain).sum(rest, where=finite))

    def merge(self, other: Self) -> None:
        self._join(other.count, other.low, other.high, other.squares)

    @property
    def mean_squares(self) -> np.ndarray:
        """The mean square of each channel."""
        return self.squares / max(self.count, 1)

    def _join(self, count: int, low: np.ndarray, high: np.ndarray, squares: np.ndarray) -> None:
        self.count += count
        if not self.low.size:
            self.low, self.high, self.squares = low.copy(), high.copy(), squares.copy()
        elif low.size:
            if low.shape != self.low.shape:
                raise InputError(
                    f"there are {low.size} channels after {self.low.size}", remedy="ask for other kinds of statistics"
                )
            self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
            self.squares = self.squares + squares


KINDS: dict[str, type[Accumulator]] = {cls.kind: cls for cls in (Range, Moving, Moments, Histogram, Channels)}
"""The kinds of statistics by name."""
