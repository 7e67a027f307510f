"""Placement by measurement: which layers are faster as integers on a target, and which stay floats."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graphopt.compression.costs import COSTS, LATENCY, LatencyCost
from graphopt.compression.latency import FLOATS, INTEGERS, Choice, Latencies, LayerSizes, choose
from graphopt.compression.layers import Layer
from graphopt.errors import InputError
from graphopt.hardware.target import Target
from graphopt.hardware.target import load as load_target
from graphopt.ir import Model
from graphopt.rewriting.pipeline import PassManager, Pipeline
from graphopt.util.codec import encode
from graphopt.util.tables import Table, format_seconds

from . import backend, worker
from .deadline import Deadline
from .integers import is_quantized
from .tuning import Tuning

_SHARE = 0.25
"""The part of a tuning budget that layers of a quantized model get at most; the rest is for kernels."""


@dataclass(frozen=True)
class Placed:
    """A layer and its times in both precisions."""

    layer: Layer
    choice: Choice

    @property
    def reason(self) -> str:
        """Why it stays floats."""
        how = "measured" if self.choice.measured else "estimated"
        floats, integers = (format_seconds(self.choice.seconds(one)) for one in (FLOATS, INTEGERS))
        what = "integers gain too little" if self.choice.integers_win else "floats are faster"
        return f"{what}: {floats}, {integers} as integers ({how})"


@dataclass(frozen=True)
class Placement:
    """Where the layers of a model are faster on a target, those that take longest first."""

    target: str
    layers: list[Placed] = field(default_factory=list)

    @property
    def floats(self) -> list[Placed]:
        """The layers that do not gain enough as integers."""
        return [one for one in self.layers if not one.choice.pays]

    def table(self, most: int | None = None) -> Table:
        """Return the times of the layers that take longest in floats."""
        columns = ("layer", FLOATS, INTEGERS, "gain", "known by", "faster as")
        table = Table(f"layers on {self.target}, one thread", columns, right=frozenset(columns[1:4]))
        for one in self.layers[:most]:
            times = [format_seconds(one.choice.seconds(precision)) for precision in (FLOATS, INTEGERS)]
            gain = f"{one.choice.floats / one.choice.integers:.2f}" if one.choice.integers else ""
            known = "measurement" if one.choice.measured else "estimate"
            table.add(one.layer.label, *times, gain, known, INTEGERS if one.choice.pays else FLOATS)
        return table

    def to_json(self) -> dict[str, Any]:
        """Return the times and decisions as JSON types."""
        rows = [
            {"layer": one.layer.name, "op": one.layer.op, **encode(one.choice), "int8": one.choice.pays}
            for one in self.layers
        ]
        return {"target": self.target, "layers": rows}


@dataclass(frozen=True)
class Placing:
    """How layers are placed on a target: with the records of `tuning`, after measuring if that has a budget."""

    target: Target
    tuning: Tuning

    @classmethod
    def of(
        cls, target: Target | str | os.PathLike[str] | None, tune: Tuning | str | int | None = None
    ) -> Placing | None:
        """Return the placement on a target, None without one. Raises InputError and TargetError."""
        tuning = Tuning.of(tune)
        if target is not None:
            return cls(load_target(target), tuning)
        if tuning != Tuning():
            raise InputError("layers are measured for a target, but there is none", remedy="Name one, such as host.")
        return None

    def place(self, layers: Sequence[Layer], progress: backend.Progress) -> tuple[Placement, LatencyCost]:
        """Return the placement of the layers whose sizes are known, and the costs of all.

        Raises InputError, TargetError and CompileError if the target cannot be measured.
        """
        measure([layer.sizes for layer in layers], self.target, self.tuning, progress)
        costs = LatencyCost(self.latencies, layers)
        placed = [Placed(layer, found) for layer in layers if (found := costs.choice(layer))]
        return Placement(self.target.name, sorted(placed, key=lambda one: -one.choice.floats)), costs

    @property
    def latencies(self) -> Latencies:
        return backend.load().latencies(self.target, self.tuning)


def check_cost(cost: str | None, placing: Placing | None) -> str:
    """Return the name of a cost table, or the default. Raises InputError if there is no such table."""
    if cost is None:
        return "flops" if placing is None else LATENCY
    if cost not in (*COSTS, LATENCY):
        raise InputError(f"there is no cost table '{cost}'", remedy=f"the tables are: {', '.join((*COSTS, LATENCY))}")
    if cost == LATENCY and placing is None:
        raise InputError("latency depends on a target, but there is none", remedy="Name one, such as host.")
    return cost


def measure(
    layers: Sequence[LayerSizes | None],
    target: Target,
    tuning: Tuning,
    progress: backend.Progress,
    deadline: Deadline | None = None,
) -> int:
    """Measure layers that have no records, those with the most products first, if there is a budget for it.

    Returns how many were measured. Raises InputError, TargetError and CompileError if the target cannot be measured.
    """
    if tuning.budget is None:
        return 0
    known = backend.load().latencies(target, tuning)
    new = [sizes for sizes in dict.fromkeys(layers) if sizes is not None and not choose(known, sizes).measured]
    new.sort(key=lambda sizes: -sizes.products)
    return worker.measure(new, target, progress, tuning, deadline) if new else 0


@dataclass
class _Asked:
    """Latencies that remember which layers they are asked for: those that are computed in floats or in integers."""

    known: Latencies
    layers: dict[LayerSizes, None] = field(default_factory=dict)

    def measured(self, sizes: LayerSizes, precision: str) -> float | None:
        self.layers[sizes] = None
        return self.known.measured(sizes, precision)

    def estimated(self, sizes: LayerSizes, precision: str) -> float:
        return self.known.estimated(sizes, precision)


def measure_choices(
    model: Model,
    lowering: Pipeline,
    target: Target,
    tuning: Tuning,
    progress: backend.Progress,
    deadline: Deadline | None = None,
) -> int:
    """Measure the layers of a quantized model that `lowering` computes in floats or in integers, whichever is faster.

    They get a part of the budget of `tuning`. `model` is changed. Returns how many layers were measured; raises what
    `measure` raises.
    """
    if tuning.budget is None or not is_quantized(model):
        return 0
    asked = _Asked(backend.load().latencies(target, tuning))
    PassManager(lowering, target=target, latencies=asked).run(model)
    part = replace(tuning, budget=tuning.budget.share(_SHARE))
    return measure(list(asked.layers), target, part, progress, deadline)
