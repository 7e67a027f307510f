"""The sharing of a budget among measurements, and the comparison of candidates in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tvm import tirx

from graphopt.driver.tuning import Budget, Tuned, Tuning
from graphopt.errors import InputError, TargetError
from graphopt.hardware.target import Target
from graphopt.targets.tvm.tuning.measure import Bench

EACH = 0.5
"""The assumed seconds per candidate until some were measured."""
ROUNDS = 4
OUT = 2.0
"""A candidate that is slower than the fastest by this factor is not measured further."""
GAIN = 0.98
"""The share of the fastest time so far that a candidate must not exceed to replace it: less is noise."""

Built = tuple[tirx.PrimFunc, Path | None]
"""A scheduled function and its library, each None if there is none."""


class Spending:
    """A budget, and how much of it is spent."""

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget, self.clock = budget, clock
        self.start = clock()
        self.spent = 0
        """The number of candidates measured so far."""
        self.each = EACH
        """The average seconds per candidate."""

    def restart(self) -> None:
        """Count seconds from now on."""
        self.start = self.clock()

    def left(self) -> bool:
        return self.done() < 1

    def done(self) -> float:
        """Return the share of the budget that is spent; more than 1 if it was exceeded."""
        if self.budget.seconds is not None:
            return (self.clock() - self.start) / self.budget.seconds
        return self.spent / (self.budget.measurements or 1)

    def allowed(self, number: int) -> int:
        """Return how many of `number` candidates the budget allows to build and measure at once: at least one."""
        if self.budget.measurements is not None:
            return min(number, self.budget.measurements - self.spent)
        seconds = (self.budget.seconds or 0) - (self.clock() - self.start)
        return min(number, max(1, int(seconds / self.each)))


def checked(target: Target, tuning: Tuning) -> Spending:
    """Return the account of a run that measures on a target.

    Raises InputError if there is no budget, TargetError if the target cannot be measured.
    """
    if tuning.budget is None:
        raise InputError(
            "tuning needs a budget", remedy="Write a time such as 5m, or a number of measurements such as 200."
        )
    if target.kind != "cpu":
        raise TargetError(f"kernels for {target.kind} are not tuned yet", where=target.name)
    if tuning.remote is None and not target.runs_here():
        raise TargetError(
            "this machine cannot run code for the target",
            where=target.name,
            remedy="Measure on a machine that can: --rpc HOST:PORT --rpc-key KEY.",
        )
    return Spending(tuning.budget)


class Measuring(Protocol):
    """A kind of measurements that a budget can be spent on."""

    def measure_defaults(self) -> None:
        """Measure what is used without any record, as far as the budget allows."""
        ...

    def promise(self) -> float:
        """Return the seconds of the model's time that the next step may improve, less after many tries; 0: done."""
        ...

    def step(self) -> None:
        """Measure a few candidates, and record the results."""
        ...

    def results(self) -> list[Tuned]:
        """Return the results."""
        ...


def spend(spending: Spending, parts: Sequence[Measuring]) -> list[Tuned]:
    """Measure until everything is known or the budget is spent, always where most of the time is."""
    for part in parts:
        part.measure_defaults()
    while spending.left():
        best = max(parts, key=lambda part: part.promise())
        if not best.promise():
            break
        best.step()
    return [one for part in parts for one in part.results()]


def race(bench: Bench, built: Sequence[Built], left: Callable[[], bool], times: dict[int, float | None]) -> None:
    """Fill `times` with the best times of what was built, by index; None for what failed.

    Runs are interleaved, so that a disturbance affects all of them; the first round is finished even if nothing is
    `left`. `times` contains the results so far even if the bench raises.
    """
    times.update((place, None) for place, (_, library) in enumerate(built) if library is None)
    running = [place for place, (_, library) in enumerate(built) if library is not None]
    for number in range(ROUNDS):
        if number and not left():
            break
        running = _round(bench, built, running, times)


def _round(bench: Bench, built: Sequence[Built], running: list[int], times: dict[int, float | None]) -> list[int]:
    """Time each once; return those that are still worth timing."""
    for place in running:
        function, library = built[place]
        assert library is not None
        seconds, before = bench.time(function, library), times.get(place)
        # A candidate that crashes occasionally is rejected.
        times[place] = seconds if seconds is None or before is None else min(seconds, before)
    limit = OUT * min(timed(times).values(), default=0.0)
    return [place for place in running if timed(times).get(place, math.inf) <= limit]


def timed(times: Mapping[int, float | None]) -> dict[int, float]:
    """Return those that have a time."""
    return {place: seconds for place, seconds in times.items() if seconds is not None}


def remove(built: Sequence[Built]) -> None:
    """Delete the libraries that were built."""
    for _, library in built:
        if library is not None:
            library.unlink(missing_ok=True)
