"""How measurements share a budget, and how those that compete take turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tvm import tirx

from graphopt.driver.tuning import Budget, Tuned
from graphopt.targets.tvm.tuning.measure import Bench

EACH = 0.5
"""Seconds that a candidate is thought to take until some were measured."""
ROUNDS = 4
OUT = 2.0
"""A candidate so many times slower than the fastest is measured no further."""
GAIN = 0.98
"""What a candidate's time must be of that of the fastest so far, to take its place: less is noise."""

Built = tuple[tirx.PrimFunc, Path | None]
"""A scheduled function and its library; None where there is none."""


class Spending:
    """A budget, and how much of it is used up."""

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget, self.clock = budget, clock
        self.start = clock()
        self.spent = 0
        """Candidates measured so far."""
        self.each = EACH
        """Seconds that a candidate takes."""

    def left(self) -> bool:
        return self.done() < 1

    def done(self) -> float:
        """Which part of the budget is used up; more than 1 where it was exceeded."""
        if self.budget.seconds is not None:
            return (self.clock() - self.start) / self.budget.seconds
        return self.spent / (self.budget.measurements or 1)

    def allowed(self, number: int) -> int:
        """How many of so many candidates the budget allows to build and measure at once: at least one."""
        if self.budget.measurements is not None:
            return min(number, self.budget.measurements - self.spent)
        seconds = (self.budget.seconds or 0) - (self.clock() - self.start)
        return min(number, max(1, int(seconds / self.each)))


class Measuring(Protocol):
    """One kind of measurements that a budget can be spent on."""

    def measure_defaults(self) -> None:
        """Measure what is used without any record, as far as the budget goes."""
        ...

    def promise(self) -> float:
        """Seconds of the model's time that the next step works on, less for what was tried often; 0: nothing to do."""
        ...

    def step(self) -> None:
        """Measure a few candidates, and record what was found."""
        ...

    def results(self) -> list[Tuned]:
        """What was found out."""
        ...


def spend(spending: Spending, parts: Sequence[Measuring]) -> list[Tuned]:
    """Measure until everything is known or the budget is used up, always where most of the time goes."""
    for part in parts:
        part.measure_defaults()
    while spending.left():
        best = max(parts, key=lambda part: part.promise())
        if not best.promise():
            break
        best.step()
    return [one for part in parts for one in part.results()]


def race(bench: Bench, built: Sequence[Built], left: Callable[[], bool], times: dict[int, float | None]) -> None:
    """Fill `times` with the best of what was built, by place; None for what failed.

    Interleaved, so that a disturbance meets all of them; the first round is finished even if nothing is `left`. What
    was found so far is in `times` even if the bench raises.
    """
    times.update((place, None) for place, (_, library) in enumerate(built) if library is None)
    running = [place for place, (_, library) in enumerate(built) if library is not None]
    for number in range(ROUNDS):
        if number and not left():
            break
        running = _round(bench, built, running, times)


def _round(bench: Bench, built: Sequence[Built], running: list[int], times: dict[int, float | None]) -> list[int]:
    """Time each once; returns those that are still worth timing."""
    for place in running:
        function, library = built[place]
        assert library is not None
        seconds, before = bench.time(function, library), times.get(place)
        # What crashes now and then is no candidate.
        times[place] = seconds if seconds is None or before is None else min(seconds, before)
    limit = OUT * min(timed(times).values(), default=0.0)
    return [place for place in running if timed(times).get(place, math.inf) <= limit]


def timed(times: Mapping[int, float | None]) -> dict[int, float]:
    """Those that have a time."""
    return {place: seconds for place, seconds in times.items() if seconds is not None}


def remove(built: Sequence[Built]) -> None:
    """Delete the libraries that were built."""
    for _, library in built:
        if library is not None:
            library.unlink(missing_ok=True)
