"""A converter's view of the node that it lowers."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir import DType, Node
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Operand
from graphopt.targets.tvm.lowering.registry import Declined


class Call:
    """One node with its operands, ready to be lowered."""

    __slots__ = ("ctx", "inputs", "node", "version")

    def __init__(self, ctx: Context, node: Node, inputs: list[Operand | None], version: int) -> None:
        self.ctx = ctx
        self.node = node
        self.inputs = inputs
        self.version = version

    def input(self, index: int) -> Operand | None:
        """Return operand `index`, or None if it is omitted or past the end."""
        return self.inputs[index] if index < len(self.inputs) else None

    def __getitem__(self, index: int) -> Operand:
        """Return operand `index`, which the operator requires."""
        operand = self.input(index)
        if operand is None:
            raise Declined(f"input {index} is missing")
        return operand

    def attr(self, name: str, default: Any = None) -> Any:
        return self.node.attr(name, default)

    def dtype_attr(self, name: str, default: str | None = None) -> str:
        """Return an attribute that is an element type, as TVM's name. Raises Declined if it is missing."""
        number = self.node.attr(name)
        if number is None:
            if default is None:
                raise Declined(f"attribute {name} is missing")
            return default
        return DType(number).text

    def wants(self, index: int) -> bool:
        """Return whether output `index` exists and is used at all."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index].name)

    def constant(self, index: int, what: str) -> np.ndarray | None:
        """Return input `index` as a known array; None if omitted. Raises Declined, naming `what`, if it is computed."""
        operand = self.input(index)
        if operand is None:
            return None
        if operand.array is None:
            raise Declined(f"{what} is not a constant")
        return operand.array

    def ints(self, index: int, name: str, what: str) -> list[int] | None:
        """Return integers that are an attribute in old schema versions and constant input `index` in new ones."""
        if self.attr(name) is not None:
            return [int(v) for v in np.atleast_1d(self.attr(name))]
        array = self.constant(index, what)
        return None if array is None else [int(v) for v in array.ravel()]

    def axis(self, rank: int, default: int = 0, name: str = "axis") -> int:
        """Return the axis attribute, counted from the front. Raises Declined if it is out of range."""
        return normal_axis(int(self.attr(name, default)), rank)


def normal_axis(axis: int, rank: int) -> int:
    """Return an axis counted from the front. Raises Declined if it is out of range."""
    if not -rank <= axis < max(rank, 1):
        raise Declined(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank if rank else 0
