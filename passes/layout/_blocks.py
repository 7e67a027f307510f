"""Which values of a graph have a channel-blocked counterpart, and how one is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt import operators
from graphopt.ir import DType, Node, TensorType, Value
from graphopt.rewriting.passes import Miss, Rewriter

Make = Callable[[Rewriter], Value]
"""Makes a value, or finds one that is there, once a rewrite was allowed."""

Plan = Callable[[Rewriter], Sequence[Value | None]]
"""Makes the blocked counterparts of a node's outputs."""

DTYPES = frozenset({DType.FLOAT})
"""Element types of which backends have kernels on blocked values."""

NOTHING = Miss()
UNKNOWN = Miss("the shape of its result is not known")


class Layout:
    """The blocked counterparts of the plain values of one graph; `block` is the number of channels in a block."""

    def __init__(self, block: int) -> None:
        self.block = block
        self._blocked: dict[Value, Value] = {}

    def __contains__(self, value: Value | None) -> bool:
        """Return whether a plain value has a blocked counterpart."""
        return value in self._blocked

    def __getitem__(self, value: Value) -> Value:
        return self._blocked[value]

    def __setitem__(self, value: Value, blocked: Value) -> None:
        self._blocked[value] = blocked

    def type_of(self, value: Value) -> TensorType:
        """The type of the blocked counterpart of a plain value that `is_image`."""
        assert value.shape is not None
        batch, channels, *sizes = value.shape
        assert isinstance(channels, int)
        assert value.dtype is not None
        return TensorType(value.dtype, (batch, -(-channels // self.block), *sizes, self.block))

    def blocked(self, value: Value) -> Make:
        """Makes the blocked counterpart of a plain value that `is_image`, unless there is one."""

        def make(rewriter: Rewriter) -> Value:
            if value not in self._blocked:
                self._blocked[value] = self.op(
                    rewriter, "ToBlocked", [value], {"block": self.block}, self.type_of(value)
                )
            return self._blocked[value]

        return make

    def op(
        self,
        rewriter: Rewriter,
        op_type: str,
        inputs: Sequence[Value | None],
        attributes: dict[str, Any],
        type_: TensorType,
    ) -> Value:
        """The result of a new node of domain `graphopt`."""
        operators.declare(rewriter, op_type)
        return rewriter.op(op_type, inputs, attributes, domain=operators.DOMAIN, types=[type_]).output

    def plain(self, value: Value, blocked: Value, rewriter: Rewriter) -> Value:
        """A plain value out of the blocked counterpart of `value`."""
        assert isinstance(value.type, TensorType)
        assert value.shape is not None
        channels = value.shape[1]
        if all(size == 1 for size in value.shape[2:]) and isinstance(channels, int) and channels % self.block == 0:
            shape = rewriter.constant(np.array([0, channels, *value.shape[2:]], np.int64), f"{value.name}_shape")
            return rewriter.op("Reshape", [blocked, shape], types=[value.type]).output
        return self.op(rewriter, "FromBlocked", [blocked], {"channels": channels}, value.type)

    def constant(self, array: np.ndarray) -> np.ndarray:
        """A constant [n, C, d1...dn] blocked; lanes after the last channel repeat it, so that nothing divides by 0."""
        batch, channels, *sizes = array.shape
        rest = -channels % self.block
        full = np.pad(array, [(0, 0), (0, rest), *[(0, 0)] * len(sizes)], mode="edge")
        split = full.reshape(batch, (channels + rest) // self.block, self.block, *sizes)
        return np.ascontiguousarray(np.moveaxis(split, 2, -1))


def is_image(value: Value | None) -> bool:
    """Whether a value is [N, C, D1...Dn] of one of DTYPES, of sizes that are known and positive, that of N aside."""
    if value is None or value.dtype not in DTYPES or value.shape is None or len(value.shape) < 3:
        return False
    return all(isinstance(size, int) and size > 0 for size in value.shape[1:])


def channels_of(value: Value) -> int:
    """The channels of a value that `is_image`."""
    assert value.shape is not None
    channels = value.shape[1]
    assert isinstance(channels, int)
    return channels


def sizes_of(value: Value) -> tuple[int, ...]:
    """The spatial sizes of a value that `is_image`."""
    assert value.shape is not None
    return tuple(size for size in value.shape[2:] if isinstance(size, int))


def same_op(node: Node, inputs: Sequence[Make], layout: Layout, **attributes: Any) -> Plan:
    """The node's own operator on blocked inputs, with some attributes set otherwise; one output."""

    def make(rewriter: Rewriter) -> list[Value | None]:
        made = [make_input(rewriter) for make_input in inputs]
        kept = {name: attribute for name, attribute in node.attributes.items() if name not in attributes}
        type_ = layout.type_of(node.output)
        return [rewriter.op(node.op_type, made, {**kept, **attributes}, types=[type_]).output]

    return make


def existing(value: Value) -> Make:
    """The value itself."""
    return lambda rewriter: value
