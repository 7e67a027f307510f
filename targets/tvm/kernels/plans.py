"""The choice of family and plan for each workload of a model.

A tuning record decides if there is one; otherwise the family's closed-form estimate does. Requests are remembered:
these are the workloads that a tuner has to measure, and the counts in the manifest.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable

from graphopt.targets.tvm.kernels.families import FAMILIES, families_for
from graphopt.targets.tvm.kernels.family import Family, Plan, Workload, every_plan, find_plan
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.tuning.records import Records

NEARLY = 1.1
"""The accepted increase in expected time of a workload for sharing a packed weight with another."""

SMALL = 1.02
"""The size relative to the smallest up to which a packed weight counts as compact."""

PLAIN = Machine(32, 16, 1)
"""The machine if none is given: every plan computes the same."""


class Plans:
    """The plans of one model for one machine. The same records give the same plans."""

    def __init__(
        self,
        machine: Machine | None = None,
        records: Records | None = None,
        device: str = "cpu",
        families: tuple[Family, ...] = FAMILIES,
        compact: bool = False,
    ) -> None:
        """Create the plans for a machine; without one, nothing is chosen.

        `device`: the kind of device whose schedules a family must have. `compact`: choose only plans whose packed
        weights are about as small as possible, and one layout per weight if possible.
        """
        self.compact = compact
        self.machine = machine
        self.records = records
        self.device = device
        self.families = families
        self.workloads: Counter[Workload] = Counter()
        """The number of requests for each tunable workload."""
        self.tuned: set[str] = set()
        """The keys of the workloads that a record decided."""
        self._layouts: defaultdict[tuple[Hashable, ...], set[Hashable]] = defaultdict(set)
        """The layouts in which a weight is packed already, by weight and family."""

    def choose(self, workload: Workload, weight: Hashable = None) -> tuple[Family, Plan] | None:
        """Return the family and its plan for a workload; None if no family computes it on this machine.

        Workloads that read the same `weight` agree on one layout of it if that costs little, which may not be the best
        plan.
        """
        machine = self.machine
        if machine is None:
            return None
        best = self._best(workload, machine)
        if best is None or weight is None or not workload.is_packed:
            return best
        family, plan = self._smallest(workload, best, machine) if self.compact else best
        known = self._layouts[family.name, weight]
        if known and family.layout(workload, plan) not in known and workload.key not in self.tuned:
            most = math.inf if self.compact else NEARLY
            plan = _nearly_as_good(workload, family, plan, machine, known, most) or plan
        known.add(family.layout(workload, plan))
        return family, plan

    def _smallest(self, workload: Workload, best: tuple[Family, Plan], machine: Machine) -> tuple[Family, Plan]:
        """Return the best plan if no other has a smaller packed weight; else the first of those that do."""
        families = families_for(workload, machine, self.device, self.families)
        choices = [best, *((family, plan) for family in families for plan in every_plan(family, workload, machine))]
        sizes = [math.prod(family.packed_shape(workload, plan)) for family, plan in choices]
        return next(choice for choice, size in zip(choices, sizes) if size <= SMALL * min(sizes))

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
        """Return the family with the plainest definition, for a device without a kernel for the workload.

        None if no family computes such a workload at all.
        """
        able = [family for family in self.families if family.supports(workload, PLAIN)]
        return (able[-1], able[-1].default(workload, PLAIN)) if able else None

    def _recorded(self, workload: Workload, families: list[Family], machine: Machine) -> tuple[Family, Plan] | None:
        """Return the choice of a record, if there is one for the current families."""
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
    """Return the first family that expects to be fastest on a CPU, with its plan. Some family computes `workload`."""
    return _first(workload, families_for(workload, machine), machine)


def _first(workload: Workload, families: list[Family], machine: Machine) -> tuple[Family, Plan]:
    for family in families:
        plan = family.default(workload, machine)
        if plan is not None:
            return family, plan
    raise AssertionError(f"no family computes {workload.key}")


def _nearly_as_good(
    workload: Workload, family: Family, best: Plan, machine: Machine, known: set[Hashable], most: float
) -> Plan | None:
    """Return the plan that reads a weight as packed already, if it takes at most `most` times as long as the best."""

    def cost(plan: Plan) -> float:
        return family.cost(workload, plan, machine)

    plans = [plan for plan in every_plan(family, workload, machine) if family.layout(workload, plan) in known]
    found = min(plans, key=cost, default=None)
    return found if found is not None and cost(found) <= most * cost(best) else None
