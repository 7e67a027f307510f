"""Tuning a model: its workloads are extracted by lowering it, measured, and recorded."""

from __future__ import annotations

from pathlib import Path

from graphopt.backend import Progress
from graphopt.errors import InputError, TargetError
from graphopt.ir import Model
from graphopt.target import Target
from graphopt.targets.tvm.lower import lower
from graphopt.targets.tvm.machine import machine_for
from graphopt.targets.tvm.measure import TvmBench
from graphopt.targets.tvm.plans import Plans
from graphopt.targets.tvm.records import Records
from graphopt.targets.tvm.spending import Spending, spend
from graphopt.targets.tvm.tuner import Tuner
from graphopt.tuning import Tuned, Tuning


def tune(model: Model, target: Target, tuning: Tuning, progress: Progress) -> list[Tuned]:
    """Measure what `tuning.budget` allows for the workloads of `model` on `target`; the largest share of time first.

    Raises TargetError, InputError, CompileError, and UnsupportedError as `lower` does.
    """
    if tuning.budget is None:
        raise InputError("tuning needs a budget", remedy="Write a time as 5m, or a number of measurements as 200.")
    if target.kind != "cpu":
        raise TargetError(f"kernels for {target.kind} are not tuned yet", where=target.name)
    if tuning.remote is None and not target.runs_here():
        raise TargetError(
            "this machine cannot run code for the target",
            where=target.name,
            remedy="Measure on one that can: --rpc HOST:PORT --rpc-key KEY.",
        )
    progress("finding workloads", 0.0)
    records = Records(target, None if tuning.records is None else Path(tuning.records))
    plans = Plans(machine_for(target), records)
    lower(model, plans.machine, plans)
    if not plans.workloads:
        return []
    with TvmBench(target, tuning.remote) as bench:
        spending = Spending(tuning.budget)
        return spend(spending, [Tuner(plans, records, bench, spending, progress)])
