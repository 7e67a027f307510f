"""Gives every PrimFunc of a module a schedule for its target; changes no result.

`schedule(mod, target)` looks at each function once: a kernel family claims it by its anchor block (convolution,
matrix product, pooling), everything else gets the generic schedule. A rule that TVM refuses for an odd function
gives way to the next more general one; only functions that are not made of blocks (sorting and the like, written
as plain loops) stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from graphopt.targets.tvm.kernels import conv_cpu, generic_cpu, rows_cpu
from graphopt.targets.tvm.machine import Machine, machine_of
from tvm import tirx
from tvm.s_tir import ScheduleError

CpuRule = Callable[[tirx.PrimFunc, Machine], tirx.PrimFunc | None]

CPU_RULES: tuple[CpuRule, ...] = (conv_cpu.schedule, rows_cpu.schedule, generic_cpu.schedule)
"""From the most specific to the most general; a rule answers None for a function that is not its own."""


def schedule(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """The module with every PrimFunc scheduled for `target` (kind "llvm"); Relax functions stay as they are."""
    machine = machine_of(target)
    result = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
    for name, func in sorted(mod.functions_items(), key=lambda item: item[0].name_hint):
        if isinstance(func, tirx.PrimFunc) and not is_scheduled(func):
            done = schedule_cpu(func, machine)
            result[name] = done.with_attr("tirx.is_scheduled", True)
    return result


def is_scheduled(func: tirx.PrimFunc) -> bool:
    """The function carries TVM's mark of a finished schedule."""
    return bool(func.attrs and func.attrs.get("tirx.is_scheduled", False))


def schedule_cpu(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc:
    """One function through the rules."""
    for rule in CPU_RULES:
        try:
            done = rule(func, machine)
        except ScheduleError as e:
            import os

            if os.environ.get("SDEBUG"):
                print(str(e)[-4000:])
            continue
        if done is not None:
            return done
    return func
