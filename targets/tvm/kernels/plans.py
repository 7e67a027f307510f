"""The one place that says which family and plan a workload of a model is computed by.

A record of a measurement decides where there is one; the family's closed form does otherwise. What was asked for is
kept: these are the workloads that a tuner has to measure, and the counts that the manifest states.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable

from graphopt.targets.tvm.kernels.families import FAMILIES, families_for
from graphopt.targets.tvm.kernels.family import Family, Plan, Workload, every_plan, find_plan
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.tuning.records import Records

NEARLY = 1.1
"""How much more time than its best plan a workload may be expected to take, to share a packed weight with another."""

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
        self._layouts: defaultdict[tuple[Hashable, ...], set[Hashable]] = defaultdict(set)
        """By weight and family, in what layouts the weight is packed already."""

    def choose(self, workload: Workload, weight: Hashable = None) -> tuple[Family, Plan] | None:
        """Return the family and its plan for a workload; None where no family computes it on this machine.

        Workloads that read the same `weight` agree on one layout of it where that costs little: another plan than the
        best one is chosen then.
        """
        machine = self.machine
        if machine is None:
            return None
        best = self._best(workload, machine)
        if best is None or weight is None or not workload.is_packed:
            return best
        family, plan = best
        known = self._layouts[family.name, weight]
        if known and family.layout(workload, plan) not in known and workload.key not in self.tuned:
            plan = _nearly_as_good(workload, family, plan, machine, known) or plan
        known.add(family.layout(workload, plan))
        return family, plan

    def _best(self, workload: Workload, machine: Machine) -> tuple[Family, Plan] | None:
        families = families_for(workload, machine, self.device, self.families)
        if not families:
            return None
        if workload.is_tunable:
            self.workloads[workload] += 1
            measured = self._recorded(workload, families, machine)
            if measured is not None:
                self.tuned.add(workload.key)
                return measured
        return _first(workload, families, machine)

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


def _nearly_as_good(
    workload: Workload, family: Family, best: Plan, machine: Machine, known: set[Hashable]
) -> Plan | None:
    """The plan that reads a weight as it is packed already, if it takes about as long as the best one."""

    def cost(plan: Plan) -> float:
        return family.cost(workload, plan, machine)

    plans = [plan for plan in every_plan(family, workload, machine) if family.layout(workload, plan) in known]
    found = min(plans, key=cost, default=None)
    return found if found is not None and cost(found) <= NEARLY * cost(best) else None
