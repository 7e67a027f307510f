"""QuantizeLinear and DequantizeLinear: the scales that they use, and the integers behind a float."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir import DType, Node, Value
from graphopt.rewriting.passes import Rewriter

QUANTIZE = "QuantizeLinear"
DEQUANTIZE = "DequantizeLinear"


@dataclass(frozen=True)
class Mapping:
    """What integers of type `dtype` stand for: `(q - zero) * scale`, with one number each or one along `axis`.

    `scale` is float32, `zero` int64; both are scalars or vectors.
    """

    scale: np.ndarray
    zero: np.ndarray
    dtype: DType
    axis: int | None = None

    @property
    def is_uniform(self) -> bool:
        """Return whether all elements have one scale."""
        return self.axis is None

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and largest integer of the type."""
        info = np.iinfo(self.dtype.numpy)
        return int(info.min), int(info.max)

    def equals(self, other: Mapping) -> bool:
        """Return whether integers of both stand for the same numbers."""
        return (
            self.dtype is other.dtype
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero, other.zero)
        )

    def integer_of(self, number: float) -> int:
        """Return the integer that stands for a number under one scale."""
        return int(self.integers_of(np.array(number)))

    def integers_of(self, array: np.ndarray) -> np.ndarray:
        """Return the integers that stand for an array under one scale."""
        exact = np.rint(array.astype(np.float32) / self.scale) + self.zero
        return np.clip(exact, *self.limits).astype(self.dtype.numpy)

    def along(self, parameter: np.ndarray, rank: int) -> np.ndarray:
        """Return `scale` or `zero` shaped to broadcast against the integers."""
        return parameter.reshape([-1 if i == self.axis else 1 for i in range(rank)]) if parameter.ndim else parameter


def mapping_of(node: Node) -> Mapping | None:
    """Return the mapping of a QuantizeLinear or DequantizeLinear with constant float32 scales; None for others.

    None too for scales of blocks, and for integers of other sizes than 8 and 32 bits.
    """
    stored = node.output if node.op == QUANTIZE else node.inputs[0]
    scale, zero = node.input(1), node.input(2)
    if stored is None or scale is None or scale.constant is None or (zero is not None and zero.constant is None):
        return None
    if scale.dtype is not DType.FLOAT or stored.dtype not in (DType.INT8, DType.UINT8, DType.INT32):
        return None
    numbers = scale.constant.numpy()
    points = np.zeros_like(numbers) if zero is None or zero.constant is None else zero.constant.numpy()
    if node.attr("block_size", 0) or numbers.ndim > 1 or points.size != numbers.size or not _is_plain(node):
        return None
    if not (np.isfinite(numbers).all() and (numbers > 0).all()):
        return None
    if numbers.size == 1:
        return Mapping(numbers.reshape(()), points.reshape(()).astype(np.int64), stored.dtype)
    axis = node.attr("axis", 1)
    if axis < 0 and stored.rank is None:
        return None
    axis += (stored.rank or 0) if axis < 0 else 0
    return Mapping(numbers, points.astype(np.int64), stored.dtype, axis)


def _is_plain(node: Node) -> bool:
    """Return whether a node computes in float32, to or from float32."""
    computed = node.attr("output_dtype", 0) if node.op == DEQUANTIZE else node.attr("precision", 0)
    data = node.output if node.op == DEQUANTIZE else node.inputs[0]
    return computed in (0, int(DType.FLOAT)) and data is not None and data.dtype in (DType.FLOAT, None)


@dataclass(frozen=True)
class Dequantized:
    """The integers that a float value is made of by `node`, and what they stand for."""

    node: Node
    integers: Value
    mapping: Mapping


def dequantized(value: Value | None) -> Dequantized | None:
    """Return what a value is dequantized from; None if it is not, or not by constant scales."""
    node = None if value is None else value.producer
    if node is None or node.op != DEQUANTIZE:
        return None
    mapping = mapping_of(node)
    return None if mapping is None or node.inputs[0] is None else Dequantized(node, node.inputs[0], mapping)


def parameters(rewriter: Rewriter, mapping: Mapping, name: str) -> list[Value]:
    """Return new constants for the scale and the zero point of a QuantizeLinear or DequantizeLinear."""
    return [
        rewriter.constant(mapping.scale.astype(np.float32), f"{name}_scale"),
        rewriter.constant(mapping.zero.astype(mapping.dtype.numpy), f"{name}_zero_point"),
    ]


def dequantize(rewriter: Rewriter, integers: Value, mapping: Mapping, **options: object) -> Value:
    """Return the floats that integers stand for, from a new node."""
    inputs = [integers, *parameters(rewriter, mapping, integers.name)]
    attributes = {} if mapping.axis is None else {"axis": mapping.axis}
    return rewriter.op(DEQUANTIZE, inputs, attributes, **options).output  # type: ignore[arg-type]


def quantize(rewriter: Rewriter, value: Value, mapping: Mapping) -> Value:
    """Return the integers for a float value, from a new node unless it is constant; there is one scale."""
    if value.constant is not None:
        return rewriter.constant(mapping.integers_of(value.constant.numpy()), value.name)
    return rewriter.op(QUANTIZE, [value, *parameters(rewriter, mapping, value.name)]).output
