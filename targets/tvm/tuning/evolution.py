"""MetaSchedule's evolutionary search over the schedules of one function, a few candidates at a time.

The design space is that of TVM's rules for LLVM. There is no cost model (TVM's needs one more package): each round
mutates the fastest schedules so far, and adds random ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.logging import get_logger, get_logging_func
from tvm.s_tir.schedule import Trace

from graphopt.targets.tvm import compat

POPULATION = 32
RANDOM = 16
"""The number of random candidates in the first round."""
ROUND = 8
"""The number of candidates to measure at a time."""
FAILED = 1e10
"""The seconds by which MetaSchedule represents a failure."""


class Evolution:
    """A search that starts from known schedules. Raises what TVM raises for a function that it does not support."""

    def __init__(
        self, func: tirx.PrimFunc, target: tvm.target.Target, known: Iterable[tuple[Sequence[Any], float]], seed: int
    ) -> None:
        """`func` is the result of `searched.bare`, `known` traces as JSON with their seconds, `seed` at least 1."""
        mod = tvm.IRModule({"main": func})
        self._target, self._arguments = target, ArgInfo.from_prim_func(func)
        space = ms.space_generator.PostOrderApply(
            sch_rules=ms.schedule_rule.ScheduleRule.create("llvm"),
            postprocs=ms.postproc.Postproc.create("llvm"),
            mutator_probs=ms.mutator.Mutator.create("llvm"),
        )
        strategy = ms.search_strategy.EvolutionarySearch(
            population_size=POPULATION, init_min_unmeasured=RANDOM, genetic_num_iters=1
        )
        log = get_logging_func(get_logger(__name__))
        self._context = compat.TuneContext(mod, target, space, strategy, "main", 1, seed, log)
        self._database = ms.database.MemoryDatabase()
        self._workload = self._database.commit_workload(mod)
        for trace, seconds in known:
            sch = Schedule(mod)
            Trace.apply_json_to_schedule(trace, sch)
            self._keep(sch.trace, seconds)
        choice = ms.cost_model.RandomModel(seed=seed)
        self._context.pre_tuning(1 << 20, ROUND, self._context.generate_design_space(), self._database, choice)

    def candidates(self) -> list[Any]:
        """Return the next candidates to measure, at most ROUND; empty when the search finds nothing new."""
        self._asked = self._context.generate_measure_candidates() or []
        return [candidate.sch for candidate in self._asked]

    def tell(self, times: Sequence[float | None]) -> None:
        """Report the seconds of the candidates that `candidates` returned last; None for one that failed."""
        results = []
        for candidate, seconds in zip(self._asked, times, strict=True):
            results.append(ms.runner.RunnerResult([seconds or FAILED], None if seconds else "it failed"))
            if seconds:
                self._keep(candidate.sch.trace, seconds)
        self._context.notify_runner_results(self._asked, results)

    def _keep(self, trace: Trace, seconds: float) -> None:
        record = ms.database.TuningRecord(trace, self._workload, [seconds], self._target, self._arguments)
        self._database.commit_tuning_record(record)


def trace_of(sch: Schedule) -> Any:
    """Return the steps of a schedule as JSON types."""
    return _plain(sch.trace.as_json())


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value.value if isinstance(value, tirx.IntImm | tirx.FloatImm) else value
