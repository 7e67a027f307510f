"""Interleaved timing of several runners, so that what disturbs one disturbs all.

The clock frequency, other users and the caches of a machine change by the second. Runners measured one after the other
would each see a different machine; here each round runs all of them, and medians are compared.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Runner = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one runner's timed runs: the fastest, median, 90th percentile and mean."""

    runs: int
    best: float
    p50: float
    p90: float
    mean: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Return the statistics of one or more durations. Raises ValueError for none."""
        if not seconds:
            raise ValueError("no run was timed")
        ordered = sorted(seconds)
        mean = math.fsum(ordered) / len(ordered)
        return cls(len(ordered), ordered[0], _quantile(ordered, 0.5), _quantile(ordered, 0.9), mean)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def interleave(
    runners: Mapping[str, Runner],
    runs: int = 50,
    warmup: int = 3,
    *,
    seconds: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time `runs` calls of each runner in turn, after `warmup` rounds that are not timed.

    Each timed call follows an untimed one of the same runner, because the previous runner left other data in the
    caches. It also left worker threads that spin, with some runtimes for hundreds of milliseconds: if there are several
    runners, each waits until this process is idle, for at most half a second. Each round starts with a different
    runner. After `seconds` no new round starts, but there are always at least three (or `runs`, if fewer). Exceptions
    of runners are not caught.
    """
    if runs < 1 or warmup < 0:
        raise ValueError(f"runs must be at least 1 and warmup at least 0, not {runs} and {warmup}")
    names = list(runners)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(warmup):
        for name in names:
            runners[name]()
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        for round_ in range(runs):
            if round_ >= 3 and time.perf_counter() - start > seconds:
                break
            first = round_ % len(names) if names else 0
            for name in names[first:] + names[:first]:
                if len(names) > 1:
                    _wait_until_idle()
                taken[name].append(_timed(runners[name], clock))
    finally:
        if collecting:
            gc.enable()
    return {name: Timing.of(taken[name]) for name in names}


def _wait_until_idle(most: float = 0.5, look: float = 0.01) -> None:
    """Wait until this process uses almost no CPU time for `look` seconds, but at most `most` seconds.

    `look` is longer than the time for which a scheduler makes a thread that spins wait for other processes.
    """
    end = time.perf_counter() + most
    busy = True
    while busy and time.perf_counter() < end:
        used = time.process_time()
        time.sleep(look)
        busy = time.process_time() - used > look / 10


def _timed(runner: Runner, clock: Callable[[], float]) -> float:
    runner()
    start = clock()
    runner()
    return clock() - start


def _quantile(ordered: Sequence[float], fraction: float) -> float:
    """Interpolate linearly between the two nearest values, as numpy does by default."""
    place = fraction * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
