"""Search for schedules of functions that no kernel family covers: MetaSchedule's search against the generic schedule.

Each step takes the function with the largest share of the model's time, measures a few candidates, and times the
fastest against the best so far. One that is clearly faster is kept if it computes the same as the unscheduled function
on random inputs. Every step is recorded, so that an interrupted run continues with the best schedule it had.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx

from graphopt.driver.backend import Progress
from graphopt.driver.tuning import Tuned
from graphopt.targets.tvm.cpu.schedule import is_scheduled, schedule_function
from graphopt.targets.tvm.lowering.provenance import SCHEDULE, Layer, kernels
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.tuning.evolution import ROUND, Evolution, trace_of
from graphopt.targets.tvm.tuning.measure import Bench
from graphopt.targets.tvm.tuning.messages import last_line
from graphopt.targets.tvm.tuning.searched import (
    REFUSED,
    Found,
    Searched,
    bare,
    check,
    finished,
    is_searchable,
    key,
    replay,
    to_text,
)
from graphopt.targets.tvm.tuning.spending import GAIN, Built, Spending, race, remove

_LOG = logging.getLogger(__name__)

ENOUGH = 96
"""The limit on candidates of a function, over all runs."""
LESS = 1.5
"""The factor by which each search of a function reduces its priority."""
LIKELY = 1.3
"""A candidate that is slower than the best so far by this factor when timed once is not compared further."""


@dataclass
class Function:
    """A function on its way through the search."""

    name: str
    func: tirx.PrimFunc
    """The function without a schedule."""
    general: tirx.PrimFunc
    calls: int
    general_seconds: float | None = None
    best_seconds: float | None = None
    trace: list[Any] | None = None
    before: int = 0
    """The number of candidates that earlier runs measured."""
    measured: int = 0
    failed: int = 0
    turns: int = 0
    over: bool = False
    evolution: Evolution | None = None

    @property
    def best(self) -> tirx.PrimFunc:
        return self.general if self.trace is None else finished(replay(self.func, self.trace))

    @property
    def promise(self) -> float:
        seconds = self.best_seconds or self.general_seconds
        return 0.0 if self.over or seconds is None else self.calls * seconds / LESS**self.turns

    @property
    def key(self) -> str:
        return key(self.func)


class Search:
    """One run over the functions of a model that `functions_of` returned."""

    def __init__(
        self,
        functions: Sequence[Function],
        target: tvm.target.Target,
        records: Searched,
        bench: Bench,
        spending: Spending,
        progress: Progress,
    ) -> None:
        self.functions, self.target, self.records, self.bench = functions, target, records, bench
        self.spending, self.progress = spending, progress
        for function in functions:
            self._resume(function)

    def _resume(self, function: Function) -> None:
        found = self.records.find(function.key)
        if found is not None:
            function.general_seconds, function.best_seconds = found.general, found.seconds
            function.before, function.over = found.measured, found.measured >= ENOUGH
            try:
                if found.trace is not None:
                    replay(function.func, found.trace)
                    function.trace = found.trace
            except REFUSED as error:
                function.best_seconds = None
                _LOG.info("%s: the schedule found before is dropped: %s", function.name, last_line(str(error)))

    def measure_defaults(self) -> None:
        """See `Measuring.measure_defaults`: measures the generic schedules."""
        new = [function for function in self.functions if function.general_seconds is None]
        while new and self.spending.left():
            number = self.spending.allowed(2 * ROUND)
            now, new = new[:number], new[number:]
            built = self._build([function.general for function in now])
            for function, (made, library) in zip(now, built, strict=True):
                self._tell(function, "the generic schedule")
                seconds = None if library is None else self.bench.time(made, library)
                function.general_seconds = seconds
                function.over = seconds is None
                self._count(function, seconds)
            remove(built)

    def promise(self) -> float:
        """See `Measuring.promise`."""
        return max((function.promise for function in self.functions), default=0.0)

    def step(self) -> None:
        """See `Measuring.step`: some candidates of the most promising function."""
        function = max(self.functions, key=lambda one: one.promise)
        function.turns += 1
        self._tell(function, "the next schedules")
        begin = self.spending.clock()
        try:
            candidates = self._candidates(function)
            self._contest(function, candidates)
        except REFUSED as error:
            _LOG.info("%s cannot be searched: %s", function.name, last_line(str(error)))
            function.over = True
            return
        self.spending.each = (self.spending.clock() - begin) / max(1, len(candidates))
        function.over = not candidates or function.before + function.measured >= ENOUGH

    def _candidates(self, function: Function) -> list[Any]:
        """Return the next schedules that are worth measuring; what this run has told the search counts."""
        if function.evolution is None:
            known = [] if function.trace is None else [(function.trace, function.best_seconds or 1.0)]
            function.evolution = Evolution(function.func, self.target, known, 1 + function.before)
        return function.evolution.candidates()

    def _contest(self, function: Function, candidates: Sequence[Any]) -> None:
        """Time each once; the fastest runs against the best so far, and replaces it if it is correct."""
        allowed = self.spending.allowed(ROUND)
        made = [finished(sch.mod["main"]) for sch in candidates[:allowed]]
        built = self._build([function.general, function.best, *made])
        try:
            times: list[float | None] = []
            for func, library in built[2:]:
                times.append(None if library is None else self.bench.time(func, library))
                self._count(function, times[-1])
            if function.evolution is not None:
                function.evolution.tell([*times, *[None] * (len(candidates) - len(times))])
            timed = {place: seconds for place, seconds in enumerate(times) if seconds is not None}
            place = min(timed, key=lambda one: timed[one], default=None)
            if place is not None and timed[place] < LIKELY * (function.best_seconds or function.general_seconds or 0):
                self._final(function, built[:2], built[2 + place], candidates[place])
        finally:  # a candidate that crashed a device is counted, so that the next run continues with others
            remove(built)
            self._record(function)

    def _final(self, function: Function, old: Sequence[Built], new: Built, sch: Any) -> None:
        """Time the generic schedule, the best so far and a candidate, interleaved."""
        times: dict[int, float | None] = {}
        race(self.bench, [*old, new], self.spending.left, times)
        general, best, seconds = (times.get(place) for place in range(3))
        if general is None or seconds is None:
            return
        function.general_seconds = general
        if function.trace is not None:
            function.best_seconds = best
        if seconds >= GAIN * min(general, best or general):
            return
        trace = trace_of(sch)
        problem = self._problem(function, new, trace)
        if problem:
            _LOG.info("%s: rejected a schedule that is wrong: %s", function.name, problem)
            function.failed += 1
        else:
            function.trace, function.best_seconds = trace, seconds

    def _problem(self, function: Function, new: Built, trace: Any) -> str:
        """Return what is wrong with a candidate; empty if it may be saved and computes the right results."""
        built = self._build([function.func])
        try:
            check(trace)
            library, reference = new[1], built[0][1]
            if library is None or reference is None:
                return "there is nothing to compare it with"
            return self.bench.compare(function.func, reference, library)
        except ValueError as error:
            return str(error)
        finally:
            remove(built)

    def _build(self, functions: Sequence[tirx.PrimFunc]) -> list[Built]:
        return list(zip(functions, self.bench.build(functions), strict=True))

    def _count(self, function: Function, seconds: float | None) -> None:
        self.spending.spent += 1
        function.measured += 1
        function.failed += seconds is None

    def _record(self, function: Function) -> None:
        assert function.general_seconds is not None
        self.records.add(
            Found(
                target=self.records.target,
                toolchain=self.records.toolchain,
                workload=function.key,
                function=to_text(function.func),
                general=function.general_seconds,
                seconds=function.best_seconds,
                trace=function.trace,
                measured=function.before + function.measured,
                time=time.time(),
            )
        )

    def _tell(self, function: Function, what: str) -> None:
        self.progress(f"searching, {function.name}: {what}", min(1.0, self.spending.done()))

    def results(self) -> list[Tuned]:
        """See `Measuring.results`."""
        return [
            Tuned(
                workload=f"{function.name} {function.key}",
                calls=function.calls,
                default=_schedule(function.general),
                default_seconds=function.general_seconds,
                best=_schedule(function.general) if function.trace is None else "search",
                best_seconds=function.best_seconds or function.general_seconds,
                measured=function.measured,
                failed=function.failed,
                known=function.over and not function.measured,
            )
            for function in sorted(self.functions, key=lambda one: -one.calls * (one.general_seconds or 0))
        ]


def functions_of(mod: tvm.IRModule, layers: Sequence[Layer], machine: Machine) -> list[Function]:
    """Return the searchable functions of a fused, unscheduled module, equal functions once."""
    found: dict[str, Function] = {}
    for name, calls in Counter(kernel.function for kernel in kernels(mod, layers)).items():
        func = mod[name]
        if isinstance(func, tirx.PrimFunc) and not is_scheduled(func) and is_searchable(func):
            plain = bare(func)
            general = schedule_function(plain, machine).with_attr("tirx.is_scheduled", True)
            found.setdefault(key(plain), Function(name, plain, general, 0)).calls += calls
    return list(found.values())


def _schedule(func: tirx.PrimFunc) -> str:
    return str((func.attrs or {}).get(SCHEDULE, ""))
