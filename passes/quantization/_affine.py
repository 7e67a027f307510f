"""Floats that are sums of multiples of integers, as between integer products and the integers after them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graphopt.ir import DType, Node, Value
from graphopt.passes.quantization._pairs import DEQUANTIZE, dequantized

_STORED = (DType.UINT8, DType.INT8, DType.INT32)
_MOST_STEPS = 16
"""The length of the chains that are searched: what a kernel computes at once is shorter."""


@dataclass(frozen=True)
class Term:
    """Integers, or the sums of them over all positions of an image."""

    integers: Value
    positions: int = 1
    """How many are summed: one, or those of the image."""

    @property
    def largest(self) -> float:
        """The largest magnitude that a value of the type of the integers, or a sum of so many, can have."""
        assert self.integers.dtype is not None
        info = np.iinfo(self.integers.dtype.numpy)
        return float(max(info.max, -int(info.min))) * self.positions


@dataclass(frozen=True)
class Affine:
    """`constant + sum(factor * term)`, with float64 arrays that broadcast against the result and each term once."""

    terms: tuple[tuple[Term, np.ndarray], ...]
    constant: np.ndarray

    def scaled(self, factor: np.ndarray) -> Affine:
        """Return this times a number, or times an array that broadcasts against the result."""
        return Affine(tuple((term, part * factor) for term, part in self.terms), self.constant * factor)

    def plus(self, other: Affine) -> Affine:
        """Return the sum of two."""
        merged = dict(self.terms)
        for term, part in other.terms:
            merged[term] = merged[term] + part if term in merged else part
        return Affine(tuple(merged.items()), self.constant + other.constant)


def affine(value: Value | None, reader: Node, depth: int = 0) -> Affine | str:
    """Return the affine form of a float that `reader` reads, or the operator that is none.

    Sources are a `DequantizeLinear` with constant scales, `GlobalAveragePool` of one with a single scale, a `Cast` of
    integers, and constants; between them are `Add`, `Sub`, `Neg`, and `Mul` by constants, whose results nothing else
    reads.
    """
    if value is None:
        return "an operand that is missing"
    if value.constant is not None:
        return Affine((), value.constant.numpy().astype(np.float64))
    node = value.producer
    if node is None:
        return "an input of the model"
    if node.op == DEQUANTIZE or (node.op == "Cast" and value.dtype is DType.FLOAT):
        return _source(value, node)
    if node.op == "GlobalAveragePool":
        return _average(node) or node.op
    combine = _COMBINED.get(node.op)
    if combine is None or depth == _MOST_STEPS:
        return node.op
    if value.sole_user is not reader:
        return f"{node.op}, whose result is read elsewhere too"
    operands = []
    for source in node.inputs:
        operand = affine(source, node, depth + 1)
        if isinstance(operand, str):
            return operand
        operands.append(operand)
    return combine(operands) or f"{node.op} of two computed values"


def _source(value: Value, node: Node) -> Affine | str:
    """Return the affine form of integers that are dequantized or cast."""
    if node.op == DEQUANTIZE:
        source = dequantized(value)
        if source is None or value.rank is None:
            return DEQUANTIZE
        scale = source.mapping.along(source.mapping.scale.astype(np.float64), value.rank)
        zero = source.mapping.along(source.mapping.zero.astype(np.float64), value.rank)
        return Affine(((Term(source.integers), scale),), -zero * scale)
    data = node.inputs[0]
    if data is None or data.dtype not in _STORED:
        return "Cast"
    return Affine(((Term(data), np.ones(())),), np.zeros(()))


def _average(node: Node) -> Affine | None:
    """Return the affine form of the average of an image of known size, whose sum int32 can hold."""
    source = dequantized(node.inputs[0])
    shape = None if source is None else source.integers.shape
    if source is None or shape is None or not source.mapping.is_uniform:
        return None
    sizes = [size for size in shape[2:] if isinstance(size, int)]
    positions = math.prod(sizes)
    term = Term(source.integers, positions)
    if len(sizes) < len(shape) - 2 or not positions or source.integers.dtype is DType.INT32 or term.largest >= 2**31:
        return None
    scale = source.mapping.scale.astype(np.float64)
    return Affine(((term, scale / positions),), -source.mapping.zero * scale)


def _product(operands: list[Affine]) -> Affine | None:
    first, second = operands
    if first.terms and second.terms:
        return None
    return first.scaled(second.constant) if first.terms else second.scaled(first.constant)


_COMBINED: dict[str, Callable[[list[Affine]], Affine | None]] = {
    "Add": lambda operands: operands[0].plus(operands[1]),
    "Sub": lambda operands: operands[0].plus(operands[1].scaled(np.array(-1.0))),
    "Neg": lambda operands: operands[0].scaled(np.array(-1.0)),
    "Mul": _product,
}


def unclipped(value: Value, reader: Node) -> tuple[Value, Node, float, float]:
    """Return what Relu and Clip nodes before `reader` limit, the node that reads it, and both limits.

    Only nodes with constant limits, whose results nothing else reads, are skipped.
    """
    low, high = -np.inf, np.inf
    while True:
        node = value.producer
        limits = None if node is None else _limits(node)
        if node is None or limits is None or value.sole_user is not reader:
            return value, reader, low, high
        # What is limited first is inside: min(max(x, l), h) of later limits applies to earlier ones too.
        inner_low, inner_high = limits
        low, high = (min(max(bound, low), high) for bound in (inner_low, inner_high))
        data = node.inputs[0]
        assert data is not None
        value, reader = data, node


def _limits(node: Node) -> tuple[float, float] | None:
    if node.op == "Relu":
        return 0.0, np.inf
    if node.op != "Clip":
        return None
    found = [-np.inf, np.inf]
    for index in (1, 2):
        bound = node.input(index)
        if bound is not None:
            if bound.constant is None or bound.constant.numpy().size != 1:
                return None
            found[index - 1] = float(bound.constant.item())
    return (found[0], found[1]) if found[0] <= found[1] else None
