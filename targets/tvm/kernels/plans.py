"""The one place that says which family and plan a workload of a model is computed by.

A record of a measurement decides where there is one; the family's closed form does otherwise. What was asked for is
kept: these are the workloads that a tuner has to measure, and the counts that the manifest states.
"""

from __future__ import annotations

from collections import Counter

from graphopt.targets.tvm.kernels.family import (
    FAMILIES,
    Family,
    Plan,
    Workload,
    families_for,
    find_plan,
    is_tunable,
    key,
)
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.tuning.records import Records

PLAIN = Machine(32, 16, 1)
"""Decides where no machine is given: any plan has the same meaning."""


class Plans:
    """The plans of one model for one machine. The same records give the same plans."""

    def __init__(self, machine: Machine | None = None, records: Records | None = None) -> None:
        """Without a `machine` workloads are only to be defined: by the family whose definition is plainest."""
        self.machine = machine or PLAIN
        self.defining = machine is None
        self.records = records
        self.workloads: Counter[Workload] = Counter()
        """How often each workload that can be tuned was asked for."""
        self.tuned: set[str] = set()
        """The keys of those that a record decided."""

    def choose(self, workload: Workload) -> tuple[Family, Plan]:
        """The family and its plan for a workload."""
        families = families_for(workload)
        if self.defining:
            return families[-1], families[-1].default(workload, self.machine)
        if is_tunable(workload):
            self.workloads[workload] += 1
            measured = self.recorded(workload)
            if measured is not None:
                self.tuned.add(key(workload))
                return measured
        return default(workload, self.machine)

    def recorded(self, workload: Workload) -> tuple[Family, Plan] | None:
        """What a record says, if there is one by the families of today."""
        record = self.records.find(key(workload)) if self.records else None
        if record is None:
            return None
        winner = record.winner
        family = next((f for f in FAMILIES if (f.name, f.version) == (winner.family, winner.version)), None)
        if family is None or not family.applies(workload):
            return None
        plan = find_plan(family, winner.plan, workload, self.machine)
        return None if plan is None else (family, plan)


def default(workload: Workload, machine: Machine) -> tuple[Family, Plan]:
    """The first family that expects to be the fastest, with its plan."""
    for family in families_for(workload):
        plan = family.default(workload, machine)
        if plan is not None:
            return family, plan
    raise AssertionError(f"no family computes {key(workload)}")
