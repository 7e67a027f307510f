"""Tuning of a model: its workloads are extracted by lowering it, measured, and recorded."""

from __future__ import annotations

from pathlib import Path

from graphopt.driver.backend import Progress
from graphopt.driver.tuning import Tuned, Tuning
from graphopt.hardware.target import Target
from graphopt.ir import Model
from graphopt.targets.tvm.codegen.build import tvm_target
from graphopt.targets.tvm.cpu.pipeline import Cpu
from graphopt.targets.tvm.device import fuse
from graphopt.targets.tvm.kernels.plans import Plans
from graphopt.targets.tvm.lowering.lower import lower
from graphopt.targets.tvm.machine import machine_for
from graphopt.targets.tvm.tuning.measure import TvmBench
from graphopt.targets.tvm.tuning.records import Records
from graphopt.targets.tvm.tuning.search import Search, functions_of
from graphopt.targets.tvm.tuning.searched import Searched
from graphopt.targets.tvm.tuning.spending import Measuring, checked, spend
from graphopt.targets.tvm.tuning.tuner import Tuner


def tune(model: Model, target: Target, tuning: Tuning, progress: Progress) -> list[Tuned]:
    """Measure what `tuning.budget` allows for the workloads of `model` on `target`, the largest share of time first.

    Raises TargetError, InputError, CompileError, and UnsupportedError as `lower` does.
    """
    spending = checked(target, tuning)
    progress("finding workloads", 0.0)
    folder = None if tuning.records is None else Path(tuning.records)
    records = Records(target, folder)
    machine = machine_for(target)
    plans = Plans(machine, records)
    lowered = lower(model, machine, plans)
    made_for, functions = tvm_target(target), []
    if tuning.search:
        functions = functions_of(fuse(lowered.mod, made_for, Cpu(machine)), lowered.layers, machine)
    if not plans.workloads and not functions:
        return []
    with TvmBench(target, tuning.remote) as bench:
        spending.restart()
        parts: list[Measuring] = [Tuner(plans, records, bench, spending, progress)]
        if functions:
            parts.append(Search(functions, made_for, Searched(target, folder), bench, spending, progress))
        return spend(spending, parts)
