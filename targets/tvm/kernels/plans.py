"""The one place that says which family and plan a workload of a model is computed by.

A record of a measurement decides where there is one; the family's closed form does otherwise. What was asked for is
kept: these are the workloads that a tuner has to measure, and the counts that the manifest states.
"""

from __future__ import annotations

from collections import Counter

from graphopt.targets.tvm.kernels.families import FAMILIES, families_for
from graphopt.targets.tvm.kernels.family import Family, Plan, Workload, find_plan
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.tuning.records import Records

PLAIN = Machine(32, 16, 1)
"""Decides where no machine is given: any plan has the same meaning."""


class Plans:
    """The plans of one model for one machine. The same records give the same plans."""

    def __init__(
        self,
        machine: Machine | None = None,
        records: Records | None = None,
        device: str = "cpu",
        families: tuple[Family, ...] = FAMILIES,
    ) -> None:
        """`device`: the kind of device whose schedules a family must have. Without a `machine` nothing is chosen."""
        self.machine = machine
        self.records = records
        self.device = device
        self.families = families
        self.workloads: Counter[Workload] = Counter()
        """How often each workload that can be tuned was asked for."""
        self.tuned: set[str] = set()
        """The keys of those that a record decided."""

    def choose(self, workload: Workload) -> tuple[Family, Plan] | None:
        """The family and its plan for a workload; None where no family computes it on this machine."""
        if self.machine is None:
            return None
        families = families_for(workload, self.machine, self.device, self.families)
        if not families:
            return None
        if workload.is_tunable:
            self.workloads[workload] += 1
            measured = self._recorded(workload, families, self.machine)
            if measured is not None:
                self.tuned.add(workload.key)
                return measured
        return _first(workload, families, self.machine)

    def define(self, workload: Workload) -> tuple[Family, Plan] | None:
        """The family whose definition is plainest: for a device that has no kernel of its own for the workload.

        None where no family computes such a workload at all.
        """
        able = [family for family in self.families if family.supports(workload, PLAIN)]
        return (able[-1], able[-1].default(workload, PLAIN)) if able else None

    def _recorded(self, workload: Workload, families: list[Family], machine: Machine) -> tuple[Family, Plan] | None:
        """What a record says, if there is one by the families of today."""
        record = self.records.find(workload.key) if self.records else None
        if record is None:
            return None
        winner = record.winner
        family = next((f for f in families if (f.name, f.version) == (winner.family, winner.version)), None)
        if family is None:
            return None
        plan = find_plan(family, winner.plan, workload, machine)
        return None if plan is None else (family, plan)


def default(workload: Workload, machine: Machine) -> tuple[Family, Plan]:
    """The first family that expects to be the fastest on a CPU, with its plan. Some family computes `workload`."""
    return _first(workload, families_for(workload, machine), machine)


def _first(workload: Workload, families: list[Family], machine: Machine) -> tuple[Family, Plan]:
    for family in families:
        plan = family.default(workload, machine)
        if plan is not None:
            return family, plan
    raise AssertionError(f"no family computes {workload.key}")
