"""Helpers for fusion passes: reading constants, walking patterns, and guarding what must not change."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphopt.ir import Dim, DType, Node, Shape, Value
from graphopt.rewriting.passes import Miss, PassContext
from graphopt.rewriting.values import tolerance

NOTHING = Miss("")
"""The miss of a node that is unrelated to the pattern; it is not reported."""


def below_opset(context: PassContext, needed: int = 18) -> Miss | None:
    """Return a miss if the model's opset is older than `needed`, where operators have other meanings or forms."""
    opset = context.model.opset
    return Miss(f"opset below {needed}") if opset < needed else None


def produced_by(value: Value | None, *ops: str) -> Node | None:
    """The producer of `value` if it is one of the operators `ops`."""
    node = None if value is None else value.producer
    return node if node is not None and node.op in ops else None


def other_input(node: Node, value: Value) -> Value | None:
    """The other operand of a binary node, or None if both operands are `value`."""
    first, second = node.inputs[:2]
    if first is second:
        return None
    return second if first is value else first


def operands(node: Node) -> Iterator[tuple[Value, Value]]:
    """The two operands of a commutative binary node in both orders."""
    first, second = node.inputs[:2]
    assert first is not None
    assert second is not None
    yield first, second
    if first is not second:
        yield second, first


def numbers(value: Value | None) -> np.ndarray | None:
    """Return a float constant as float64, in which folding is done; None if it is not a constant of floats."""
    tensor = None if value is None else value.constant
    if tensor is None or not tensor.dtype.is_float:
        return None
    return tensor.numpy().astype(np.float64)


def integers(value: Value | None) -> tuple[int, ...] | None:
    """The elements of a constant of integers (axes, pads, a permutation); None if it is not one."""
    tensor = None if value is None else value.constant
    if tensor is None or not tensor.dtype.is_integer:
        return None
    return tuple(int(i) for i in tensor.numpy().reshape(-1))


def rounded(exact: np.ndarray, dtype: DType) -> np.ndarray | None:
    """Round a float64 result to the float type `dtype`; None if that type cannot represent it.

    None for overflow, for NaN or infinity in the result, and if a tensor's largest element would be lost to underflow:
    the rewrite would then change more than rounding.
    """
    if not np.isfinite(exact).all():
        return None
    with np.errstate(over="ignore", under="ignore"):
        result = exact.astype(dtype.numpy)
    back = result.astype(np.float64)
    if not np.isfinite(back).all():
        return None
    largest = float(np.abs(exact).max(initial=0.0))
    if float(np.abs(back - exact).max(initial=0.0)) > 2 * tolerance(dtype) * largest:
        return None
    return result


def same_dim(first: Dim, second: Dim) -> bool:
    """Return whether two dimensions are known to be equal: the same size, or the same symbol."""
    return first is not None and first == second


def same_shape(first: Shape | None, second: Shape | None) -> bool:
    """Return whether two shapes are known to be equal."""
    if first is None or second is None or len(first) != len(second):
        return False
    return all(same_dim(a, b) for a, b in zip(first, second))


def broadcasts_into(shape: Shape | None, target: Shape | None) -> bool:
    """Return whether `shape` is known to broadcast to `target` without changing it (unidirectionally)."""
    if shape is None or target is None or len(shape) > len(target):
        return False
    aligned = target[len(target) - len(shape) :]
    return all(dim == 1 or same_dim(dim, wanted) for dim, wanted in zip(shape, aligned))


def axis_of(axis: int, rank: int | None) -> int | None:
    """Return a non-negative axis, or None if it is negative and the rank is unknown."""
    if axis >= 0:
        return axis
    return None if rank is None else axis + rank


def swaps_last_two(perm: tuple[int, ...] | None) -> bool:
    """Return whether a permutation swaps the last two axes and leaves the others alone."""
    if perm is None or len(perm) < 2:
        return False
    rank = len(perm)
    return perm == (*range(rank - 2), rank - 1, rank - 2)


def permutation(node: Node) -> tuple[int, ...] | None:
    """The permutation of a `Transpose`, the default one (all axes reversed) spelled out if the rank is known."""
    perm = node.attr("perm")
    if perm is not None:
        return tuple(perm)
    source = node.input(0)
    return None if source is None or source.rank is None else tuple(reversed(range(source.rank)))
