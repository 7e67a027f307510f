"""Cost tables: what a layer takes in each precision. The search for mixed precision knows only this interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

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


COSTS: dict[str, type[CostTable]] = {"flops": FlopsCost, "bytes": BytesCost}
"""The cost tables by name."""
