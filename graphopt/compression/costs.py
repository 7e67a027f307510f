"""Cost tables: what a layer takes in each precision. The search for mixed precision knows only this interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from .latency import FLOATS, INTEGERS, Choice, Latencies, choose
from .layers import Layer


class CostTable(ABC):
    """The cost of a layer, in any unit, as long as costs can be added."""

    unit: ClassVar[str]

    @abstractmethod
    def cost(self, layer: Layer, precision: str) -> float:
        """Return the cost of a layer as `float32` or `int8`."""


class FlopsCost(CostTable):
    """The arithmetic of a layer, of which one instruction does four times as much on bytes; else its weights' bytes."""

    unit = "FLOPs"

    def cost(self, layer: Layer, precision: str) -> float:
        work = layer.flops or 2 * layer.bytes
        return work / 4 if precision == "int8" else float(work)


class BytesCost(CostTable):
    """The bytes of a layer's weights in a file."""

    unit = "bytes"

    def cost(self, layer: Layer, precision: str) -> float:
        return layer.bytes / 4 if precision == "int8" else float(layer.bytes)


class LatencyCost(CostTable):
    """The time of a layer on a target: measured where there are records, else by a closed form.

    Estimates are scaled by what measured layers take, so that both can be added.
    """

    unit = "seconds"

    def __init__(self, latencies: Latencies, layers: Sequence[Layer]) -> None:
        """`layers` are all of the model."""
        self.latencies = latencies
        choices = [(layer, self.choice(layer)) for layer in layers]
        measured = [(one.sizes, found) for one, found in choices if found and found.measured and one.sizes]
        taken = sum(found.floats for _, found in measured)
        expected = sum(latencies.estimated(sizes, FLOATS) for sizes, _ in measured)
        self._factor = taken / expected if expected else 1.0
        timed = [(layer.flops, self._seconds(found, FLOATS)) for layer, found in choices if found]
        flops = sum(work for work, _ in timed)
        self._per_flop = sum(seconds for _, seconds in timed) / flops if flops else 1e-11

    def choice(self, layer: Layer) -> Choice | None:
        """Return the times of a layer; None if its sizes are not known."""
        return None if layer.sizes is None else choose(self.latencies, layer.sizes)

    def cost(self, layer: Layer, precision: str) -> float:
        found = self.choice(layer)
        if found is not None:
            return self._seconds(found, precision)
        return layer.flops * self._per_flop / (4 if precision == INTEGERS else 1)

    def _seconds(self, found: Choice, precision: str) -> float:
        return found.seconds(precision) * (1.0 if found.measured else self._factor)


COSTS: dict[str, type[CostTable]] = {"flops": FlopsCost, "bytes": BytesCost}
"""The cost tables that need no target, by name."""

LATENCY = "latency"
"""The name of `LatencyCost`, which needs a target."""
