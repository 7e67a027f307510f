"""The tuner: finds the fastest plan of each workload of a model by measuring, within a budget.

Each workload's default is measured first, which shows where the time goes. Then candidates are measured a few at a
time, those of all applicable families in turns, each time against the fastest so far: interleaved, the best of several
rounds, and twice as slow means out (see `spending.race`). So results are comparable even when the machine's speed
drifts. Every step is recorded, so that an interrupted run can be continued.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from pathlib import Path

from tvm import tirx
from tvm.s_tir import ScheduleError

from graphopt.driver.backend import Progress
from graphopt.driver.tuning import Tuned
from graphopt.targets.tvm.cpu.schedule import schedule_function
from graphopt.targets.tvm.kernels import plans as choices
from graphopt.targets.tvm.kernels.families import families_for
from graphopt.targets.tvm.kernels.family import Family, Plan, Workload, bare_function, every_plan
from graphopt.targets.tvm.kernels.plans import Plans
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.tuning.measure import Bench
from graphopt.targets.tvm.tuning.records import Record, Records, Trial
from graphopt.targets.tvm.tuning.remote import THREADS
from graphopt.targets.tvm.tuning.spending import GAIN, Built, Spending, race, remove, timed

_LOG = logging.getLogger(__name__)

TOGETHER = 6
"""The number of candidates measured against the fastest so far at a time."""
TASKS = 3
"""The number of tasks whose candidates are built together, because starting the workers takes seconds."""
LESS = 4.0
"""The factor by which each measurement of a task reduces its priority: the rest promises less."""
HOPELESS = 1.5
"""A family whose best plan is slower than the best of all by this factor is not measured further."""


@dataclass(frozen=True)
class Candidate:
    """A family and one of its plans."""

    family: Family
    plan: Plan

    @property
    def name(self) -> tuple[str, tuple[int, ...]]:
        """What distinguishes it from the others of a workload."""
        return self.family.name, self.family.numbers(self.plan)

    def __str__(self) -> str:
        return f"{self.family.name} {','.join(map(str, self.family.numbers(self.plan)))}"

    def trial(self, seconds: float | None) -> Trial:
        return Trial(self.family.name, self.family.version, self.family.numbers(self.plan), seconds)


@dataclass
class Task:
    """A workload that is being tuned."""

    workload: Workload
    calls: int
    default: Candidate
    waiting: list[Candidate]
    best: Candidate
    trials: dict[tuple[str, tuple[int, ...]], Trial] = field(default_factory=dict)
    default_seconds: float | None = None
    gain: float = 1.0
    """The time of the best plan divided by that of the default."""
    measured: int = 0
    failed: int = 0
    races: int = 0
    known: bool = False

    @property
    def share(self) -> float:
        """The estimated share of the model's time, for comparisons: by FLOPs if nothing is measured."""
        seconds = self.workload.flops * 1e-11 if self.default_seconds is None else self.default_seconds * self.gain
        return seconds * self.calls

    @property
    def promise(self) -> float:
        """What measuring more of it is worth; 0 where nothing is left to measure."""
        return self.share / LESS**self.races if self.waiting else 0.0

    def leave_hopeless(self) -> None:
        """Drop the candidates of families that are far behind."""
        times: dict[str, float] = {}
        for trial in self.trials.values():
            if trial.seconds is not None:
                times[trial.family] = min(trial.seconds, times.get(trial.family, trial.seconds))
        limit = HOPELESS * min(times.values(), default=0.0)
        self.waiting = [c for c in self.waiting if times.get(c.family.name, 0.0) <= limit]

    def has_failed(self, candidate: Candidate) -> bool:
        trial = self.trials.get(candidate.name)
        return trial is not None and trial.seconds is None


class Tuner:
    """One run over the workloads of a model that was lowered with `plans`."""

    def __init__(
        self,
        plans: Plans,
        records: Records,
        bench: Bench,
        spending: Spending,
        progress: Progress,
    ) -> None:
        assert plans.machine is not None, "workloads without a machine are not tuned"
        self.machine = plans.machine
        self.records, self.bench, self.spending, self.progress = records, bench, spending, progress
        self.tasks = [self._task(workload, calls) for workload, calls in plans.workloads.items()]

    def promise(self) -> float:
        """See `Measuring.promise`."""
        return max((task.promise for task in self.tasks), default=0.0)

    def step(self) -> None:
        """Measure the next candidates of the few most promising workloads."""
        waiting = [task for task in self.tasks if task.waiting]
        self._contests(sorted(waiting, key=lambda task: -task.promise)[:TASKS])

    def _task(self, workload: Workload, calls: int) -> Task:
        default = Candidate(*choices.default(workload, self.machine))
        waiting = {c.name: c for c in _once(default, *_by_turns(workload, self.machine))}
        task = Task(workload, calls, default, list(waiting.values()), default)
        record = self.records.find(workload.key)
        if record is None:
            return task
        versions = {family.name: family.version for family in families_for(workload, self.machine)}
        kept = {(t.family, t.plan): t for t in record.trials if versions.get(t.family) == t.version}
        winner = (record.winner.family, record.winner.plan)
        if winner in kept and winner in waiting:
            task.trials = kept
            task.best = waiting[winner]
            task.waiting = [candidate for name, candidate in waiting.items() if name not in kept]
            task.leave_hopeless()
            task.known = not task.waiting
            first = kept.get(default.name)
            if first is not None and first.seconds and record.winner.seconds:
                task.default_seconds, task.gain = first.seconds, record.winner.seconds / first.seconds
        return task

    def _ordered(self) -> list[Task]:
        return sorted(self.tasks, key=lambda task: -task.share)

    # --- measuring

    def measure_defaults(self) -> None:
        """Measure the defaults of many workloads at a time: starting the workers that build them takes seconds."""
        tasks = [task for task in self._ordered() if not task.known and task.default.name not in task.trials]
        while tasks and self.spending.left():
            number, begin = self.spending.allowed(TOGETHER * TASKS), self.spending.clock()
            now, tasks = tasks[:number], tasks[number:]
            built = self._build([(task.workload, task.default) for task in now])
            for task, (function, library) in zip(now, built, strict=True):
                self._tell(task, "the default")
                seconds = None if library is None else self._time_once(function, library)
                self._note(task, task.default, seconds)
                task.default_seconds = seconds
            remove(built)
            self.spending.each = (self.spending.clock() - begin) / len(now)

    def _contests(self, tasks: Sequence[Task]) -> None:
        """Measure the next candidates of a few tasks, each against the fastest of its task so far."""
        contests: list[tuple[Task, list[Candidate]]] = []
        allowed, begin = self.spending.allowed(TOGETHER * len(tasks)), self.spending.clock()
        for task in tasks:
            new = task.waiting[: min(TOGETHER, allowed)]
            allowed -= len(new)
            if new:
                contests.append((task, [c for c in _once(task.default, task.best, *new) if not task.has_failed(c)]))
        if contests:
            self._tell(contests[0][0], f"building {sum(len(runners) for _, runners in contests)} kernels")
        built = self._build([(task.workload, candidate) for task, runners in contests for candidate in runners])
        rest = iter(built)
        for task, runners in contests:
            own = list(islice(rest, len(runners)))
            self._race(task, runners, own)
        remove(built)
        self.spending.each = (self.spending.clock() - begin) / max(1, len(built))

    def _race(self, task: Task, runners: Sequence[Candidate], built: Sequence[Built]) -> None:
        """Time what was built for a task, and keep the results."""
        self._tell(task, f"{len(runners)} kernels, {task.best} is the fastest so far")
        task.races += 1
        times: dict[int, float | None] = {}
        try:
            race(self.bench, built, self.spending.left, times)
        finally:  # a device that crashed would be sent the same candidate again
            for place, seconds in times.items():
                if runners[place].name not in task.trials or seconds is not None:
                    self._note(task, runners[place], seconds)
            self._decide(task, {runners[place]: seconds for place, seconds in timed(times).items()})

    def _time_once(self, function: tirx.PrimFunc, library: Path) -> float | None:
        times = [self.bench.time(function, library) for _ in range(2)]
        return None if None in times else min(time for time in times if time is not None)

    def _note(self, task: Task, candidate: Candidate, seconds: float | None) -> None:
        """Record the time of a candidate; one that failed is not tried again."""
        old = task.trials.get(candidate.name)
        if old is None:
            self.spending.spent += 1
            task.measured += 1
            task.failed += seconds is None
        elif old.seconds is not None and seconds is not None:
            seconds = min(seconds, old.seconds)
        task.trials[candidate.name] = candidate.trial(seconds)
        task.waiting = [other for other in task.waiting if other.name != candidate.name]

    def _decide(self, task: Task, times: dict[Candidate, float]) -> None:
        """Record the fastest of this race, if it beats the one so far by more than noise."""
        if not times:
            return
        fastest = min(times, key=lambda candidate: times[candidate])
        if times[fastest] < GAIN * times.get(task.best, float("inf")):
            task.best = fastest
        reference = times.get(task.default)
        if reference is not None:
            task.default_seconds, task.gain = reference, times[task.best] / reference
        task.leave_hopeless()
        names = list(task.trials)
        self.records.add(
            Record(
                target=self.records.target,
                toolchain=self.records.toolchain,
                workload=task.workload.key,
                trials=tuple(task.trials.values()),
                best=names.index(task.best.name),
                threads=THREADS,
                complete=not task.waiting,
                time=time.time(),
            )
        )

    def _build(self, wanted: Sequence[tuple[Workload, Candidate]]) -> list[Built]:
        """Return each candidate's scheduled function and its library, or None."""
        functions: list[tirx.PrimFunc] = []
        scheduled: list[bool] = []
        for workload, candidate in wanted:
            bare = bare_function(candidate.family, workload, candidate.plan)
            try:
                bare = schedule_function(bare, self.machine).with_attr("tirx.is_scheduled", True)
                scheduled.append(True)
            except (ScheduleError, ValueError, RuntimeError) as error:
                _LOG.info("%s cannot be scheduled for %s: %s", candidate, workload.key, error)
                scheduled.append(False)
            functions.append(bare)
        libraries = iter(self.bench.build([f for f, good in zip(functions, scheduled, strict=True) if good]))
        return [(f, next(libraries) if good else None) for f, good in zip(functions, scheduled, strict=True)]

    # --- what is told

    def _tell(self, task: Task, what: str) -> None:
        place = self.tasks.index(task) + 1
        gained = f"{1 / task.gain:.2f}x so far" if task.gain < 1 else "no gain yet"
        text = f"tuning {place}/{len(self.tasks)}, {task.workload.key}: {what}, {gained}"
        self.progress(text, min(1.0, self.spending.done()))

    def results(self) -> list[Tuned]:
        return [
            Tuned(
                workload=task.workload.key,
                calls=task.calls,
                default=str(task.default),
                default_seconds=task.default_seconds,
                best=str(task.best),
                best_seconds=None if task.default_seconds is None else task.default_seconds * task.gain,
                measured=task.measured,
                failed=task.failed,
                known=task.known,
            )
            for task in self._ordered()
        ]


def _once(*candidates: Candidate) -> list[Candidate]:
    return list({candidate.name: candidate for candidate in candidates}.values())


def _by_turns(workload: Workload, machine: Machine) -> list[Candidate]:
    """Return every candidate of every family, the most promising first, the families taking turns."""
    lists = [[Candidate(f, plan) for plan in every_plan(f, workload, machine)] for f in families_for(workload, machine)]
    return [candidate for candidate in chain(*zip_longest(*lists)) if candidate is not None]
