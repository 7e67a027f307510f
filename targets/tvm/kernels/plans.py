"""The one place that says which family and plan a workload of a model is computed by.

A record of a measurement decides where there is one; the family's closed form does otherwise. What was asked for is
kept: these are the workloads that a tuner has to measure, and the counts that the manifest states.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable

from graphopt.targets.tvm.kernels.family import (
    FAMILIES,
    Family,
    Plan,
    Workload,
    every_plan,
    families_for,
    find_plan,
    is_tunable,
    key,
)
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.tuning.records import Records

NEARLY = 1.1
"""How much more time than its best plan a workload may be expected to take, to share a packed weight with another."""

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
        self._layouts: defaultdict[tuple[Hashable, ...], set[Hashable]] = defaultdict(set)
        """By weight and family, in what layouts the weight is packed already."""

    def choose(self, workload: Workload, weight: Hashable = None) -> tuple[Family, Plan]:
        """Return the family and its plan for a workload.

        Workloads that read the same `weight` agree on one layout of it where that costs little: another plan than the
        best one is chosen then.
        """
        family, plan = self._best(workload)
        if weight is None:
            return family, plan
        known = self._layouts[family.name, weight]
        if known and family.layout(workload, plan) not in known:
            plan = self._nearly_as_good(workload, family, plan, known) or plan
        known.add(family.layout(workload, plan))
        return family, plan

    def _nearly_as_good(self, workload: Workload, family: Family, best: Plan, known: set[Hashable]) -> Plan | None:
        """The plan that reads a weight as it is packed already, if it takes about as long as the best one."""
        if key(workload) in self.tuned:
            return None

        def cost(plan: Plan) -> float:
            return family.cost(workload, plan, self.machine)

        plans = [plan for plan in every_plan(family, workload, self.machine) if family.layout(workload, plan) in known]
        found = min(plans, key=cost, default=None)
        return found if found is not None and cost(found) <= NEARLY * cost(best) else None

    def _best(self, workload: Workload) -> tuple[Family, Plan]:
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
