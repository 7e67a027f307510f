"""Scheduling of all PrimFuncs of a module for a CPU; it changes no result.

`schedule(mod, machine)` visits each function once: a kernel family recognizes it by its anchor block (convolution,
matmul, pooling), everything else gets the generic schedule. If TVM rejects a rule for an unusual function, the next
more general rule is tried; only functions that are not made of blocks (sorting and the like, written as plain loops)
are left unchanged. A rule may describe its choice in the attribute SCHEDULE, which profiles show.
"""

from __future__ import annotations

from dataclasses import replace

import tvm
from tvm import tirx

from graphopt.targets.tvm.cpu import generic as generic_cpu
from graphopt.targets.tvm.cpu import rows as rows_cpu
from graphopt.targets.tvm.cpu import split
from graphopt.targets.tvm.kernels.common.expand import keep_special_values
from graphopt.targets.tvm.kernels.common.merge import merge_elementwise
from graphopt.targets.tvm.kernels.families import FAMILIES
from graphopt.targets.tvm.kernels.family import Rule
from graphopt.targets.tvm.kernels.lrn import cpu as lrn_cpu
from graphopt.targets.tvm.kernels.pooling import cpu as pooling_cpu
from graphopt.targets.tvm.lowering.provenance import SCHEDULE
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.tir_passes.code_size import code_size
from graphopt.targets.tvm.tuning.searched import Searched, is_searchable

CPU_RULES: tuple[Rule, ...] = (
    *(family.schedules["cpu"] for family in FAMILIES if "cpu" in family.schedules),
    pooling_cpu.schedule,
    lrn_cpu.schedule,
    rows_cpu.schedule,
    generic_cpu.schedule,
)
"""The rules from the most specific to the most general; a rule returns None for a function of another kind."""


def schedule(mod: tvm.IRModule, machine: Machine, searched: Searched | None = None) -> tvm.IRModule:
    """Return the module with every PrimFunc scheduled for `machine`; Relax functions are unchanged.

    A function that no kernel family covers gets the schedule that a search found for it, if there is one.
    """
    result = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
    for name, func in sorted(mod.functions_items(), key=lambda item: item[0].name_hint):
        if isinstance(func, tirx.PrimFunc) and not is_scheduled(func):
            found = searched.schedule(func) if searched and is_searchable(func) else None
            result[name] = (found or schedule_function(func, machine)).with_attr("tirx.is_scheduled", True)
    return result


def schedule_function(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc:
    """Schedule one function; chains of elementwise blocks are merged before, max and min propagate NaN after.

    A function of more operations than `split.MOST_OPERATIONS` is scheduled as a kernel and a loop nest after it, if it
    is the epilogue that makes it so large.
    """
    done = _apply_rules(merge_elementwise(func), machine)
    if (size := code_size(done)) > split.MOST_OPERATIONS:
        done = _split(func, size, machine) or done
    return keep_special_values(done)


def _split(func: tirx.PrimFunc, size: int, machine: Machine) -> tirx.PrimFunc | None:
    """Schedule a function as a kernel and a loop nest after it; None where that does not halve the code of `size`."""
    parts = split.split(func)
    if parts is None:
        return None
    kernel = _apply_rules(parts.kernel, machine)
    rest = _apply_rules(merge_elementwise(parts.rest), machine)
    if 2 * (code_size(kernel) + code_size(rest)) > size:
        return None
    name = f"{kernel.attrs[SCHEDULE]}, epilogue apart: together {size:,} operations"
    return split.join(func, replace(parts, kernel=kernel, rest=rest)).with_attr(SCHEDULE, name)


def is_scheduled(func: tirx.PrimFunc) -> bool:
    """Return whether the function has TVM's mark of a finished schedule."""
    return bool(func.attrs and func.attrs.get("tirx.is_scheduled", False))


def _apply_rules(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc:
    for rule in CPU_RULES:
        try:
            done = rule(func, machine)
        except generic_cpu.FAILURES as error:
            generic_cpu.note_failure(rule.__module__, error)
            continue
        if done is not None:
            return done if done.attrs and SCHEDULE in done.attrs else done.with_attr(SCHEDULE, _family(rule))
    return func


def _family(rule: Rule) -> str:
    """Return the name in profiles of a rule that does not name its plans itself: its file or folder."""
    *_, folder, file = rule.__module__.split(".")
    return folder if file == "cpu" else file
