"""The values of a graph that have a channel-blocked counterpart, and how to create one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt import operators
from graphopt.ir import DType, Node, TensorType, Value
from graphopt.rewriting.passes import Miss, Rewriter

Make = Callable[[Rewriter], Value]
"""Creates a value, or returns an existing one, once a rewrite was allowed."""

Plan = Callable[[Rewriter], Sequence[Value | None]]
"""Creates the blocked counterparts of a node's outputs."""

DTYPES = frozenset({DType.FLOAT, DType.INT32, DType.INT64, DType.UINT8, DType.BFLOAT16})
"""The element types for which backends have kernels on blocked values."""

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

    def type_of(self, value: Value, block: int = 0) -> TensorType:
        """The type of the blocked counterpart of a plain value that `is_image`; `block` may be another size."""
        assert value.shape is not None
        batch, channels, *sizes = value.shape
        assert isinstance(channels, int)
        assert value.dtype is not None
        block = block or self.block
        return TensorType(value.dtype, (batch, -(-channels // block), *sizes, block))

    def blocked(self, value: Value) -> Make:
        """Return a function that creates the blocked counterpart of a plain value that `is_image`, if needed."""

        def make(rewriter: Rewriter) -> Value:
            if value not in self._blocked:
                self._blocked[value] = self.op(
                    rewriter, "ToBlocked", [value], {"block": self.block}, self.type_of(value)
                )
            return self._blocked[value]

        return make

    def narrow(self, value: Value, block: int, rewriter: Rewriter) -> Value:
        """Return a plain value in smaller blocks, which only the node that asks for them reads."""
        return self.op(rewriter, "ToBlocked", [value], {"block": block}, self.type_of(value, block))

    def op(
        self,
        rewriter: Rewriter,
        op_type: str,
        inputs: Sequence[Value | None],
        attributes: dict[str, Any],
        type_: TensorType,
    ) -> Value:
        """Return the result of a new node of domain `graphopt`."""
        operators.declare(rewriter, op_type)
        return rewriter.op(op_type, inputs, attributes, domain=operators.DOMAIN, types=[type_]).output

    def plain(self, value: Value, blocked: Value, rewriter: Rewriter) -> Value:
        """Convert the blocked counterpart of `value` to a plain value."""
        assert isinstance(value.type, TensorType)
        assert value.shape is not None
        channels = value.shape[1]
        if all(size == 1 for size in value.shape[2:]) and isinstance(channels, int) and channels % self.block == 0:
            shape = rewriter.constant(np.array([0, channels, *value.shape[2:]], np.int64), f"{value.name}_shape")
            return rewriter.op("Reshape", [blocked, shape], types=[value.type]).output
        return self.op(rewriter, "FromBlocked", [blocked], {"channels": channels}, value.type)

    def constant(self, array: np.ndarray) -> np.ndarray:
        """Return a constant [n, C, d1...dn] in blocked form; extra lanes repeat it, to avoid a division by 0."""
        batch, channels, *sizes = array.shape
        rest = -channels % self.block
        full = np.pad(array, [(0, 0), (0, rest), *[(0, 0)] * len(sizes)], mode="edge")
        split = full.reshape(batch, (channels + rest) // self.block, self.block, *sizes)
        return np.ascontiguousarray(np.moveaxis(split, 2, -1))


def is_image(value: Value | None) -> bool:
    """Return whether a value is [N, C, D1...Dn], of one of DTYPES, with known positive sizes except possibly N."""
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
    """Apply the node's own operator to blocked inputs, with some attributes changed; one output."""

    def make(rewriter: Rewriter) -> list[Value | None]:
        made = [make_input(rewriter) for make_input in inputs]
        kept = {name: attribute for name, attribute in node.attributes.items() if name not in attributes}
        type_ = layout.type_of(node.output)
        return [rewriter.op(node.op_type, made, {**kept, **attributes}, types=[type_]).output]

    return make


def existing(value: Value) -> Make:
    """Return a function that returns the value itself."""
    return lambda rewriter: value
