"""Means over axes in the forms that exporters write: reductions, sums with a factor, axes dropped and restored."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.ir import Node, Shape, Value
from graphopt.passes.matching.match import axis_of, integers, operands, produced_by, same_shape
from graphopt.rewriting.values import number_beside

Nodes = tuple[Node, ...]


@dataclass(frozen=True)
class Mean:
    """`value` is the mean of `data` over `axes` (kept as axes of size 1)."""

    data: Value
    axes: tuple[int, ...]
    nodes: tuple[Node, ...]


def mean(value: Value | None, result: Value | None = None) -> Mean | None:
    """Match `value` as a mean: ReduceMean, or ReduceSum divided by the number of elements.

    The reduced axes must be kept as axes of size 1 in `result`, which has the same elements (by default `value`).
    """
    if value is None:
        return None
    bare, nodes = before_views(value)
    node = produced_by(bare, "ReduceMean", "Div", "Mul")
    if node is None:
        return None
    viewed = bool(nodes) or result is not None
    result = result or value
    if node.op == "ReduceMean":
        return _reduction(node, result, viewed, nodes)
    for total, count in operands(node):
        if node.op == "Div" and total is not node.inputs[0]:
            continue
        summed, views = before_views(total)
        reduce, factor = produced_by(summed, "ReduceSum"), number_beside(count, total)
        inner = (*nodes, node, *views)
        found = None if reduce is None else _reduction(reduce, result, viewed or bool(views), inner)
        if found is None or factor is None:
            continue
        size = _size(found.data.shape, found.axes)
        expected = None if size is None else (float(size) if node.op == "Div" else 1.0 / size)
        if expected is not None and math.isclose(factor, expected, rel_tol=1e-6):
            return found
    return None


def _reduction(node: Node, result: Value, viewed: bool, nodes: Nodes) -> Mean | None:
    """Return what `node` reduces, if `result` has the reduced axes as axes of size 1."""
    data, axes = node.inputs[0], integers(node.input(1))
    if data is None or not axes:
        return None
    if (viewed or not node.attr("keepdims", 1)) and not keeps_axes(data.shape, result.shape, axes):
        return None
    return Mean(data, axes, (node, *nodes))


def keeps_axes(shape: Shape | None, reduced: Shape | None, axes: tuple[int, ...]) -> bool:
    """Return whether a value of shape `shape`, reduced along `axes`, is known to have them as axes of size 1."""
    if shape is None:
        return False
    resolved = {axis % len(shape) for axis in axes}
    return same_shape(tuple(1 if axis in resolved else dim for axis, dim in enumerate(shape)), reduced)


def before_views(value: Value) -> tuple[Value, Nodes]:
    """Return the value before nodes that only change its shape, if any, and those nodes."""
    nodes: list[Node] = []
    for _ in range(3):
        node = produced_by(value, "Expand", "Reshape", "Unsqueeze", "Identity")
        if node is None or node.inputs[0] is None:
            break
        nodes.append(node)
        value = node.inputs[0]
    return value, tuple(nodes)


def _size(shape: Shape | None, axes: tuple[int, ...]) -> int | None:
    sizes = [] if shape is None else [shape[axis] for axis in axes if -len(shape) <= axis < len(shape)]
    if len(sizes) != len(axes):
        return None
    result = 1
    for size in sizes:
        if not isinstance(size, int) or size == 0:
            return None
        result *= size
    return result


def last_axes(axes: tuple[int, ...], rank: int | None) -> int | None:
    """The first of `axes` as a negative number if they are the last axes of `rank`, else None."""
    if rank is None:
        return -1 if axes == (-1,) else None
    resolved = sorted(axis for axis in (axis_of(a, rank) for a in axes) if axis is not None)
    return -len(axes) if resolved == list(range(rank - len(axes), rank)) else None


def same_axes(first: tuple[int, ...], second: tuple[int, ...], rank: int | None) -> bool:
    """Return whether two lists name the same axes of data of this rank, in any order and from either end."""
    if rank is None:
        return first == second
    return sorted(a % rank for a in first) == sorted(a % rank for a in second)


def square(value: Value | None) -> tuple[Value, Node] | None:
    """The x of `value` = x * x or x ** 2, and that node."""
    node = produced_by(value, "Mul", "Pow")
    if node is None:
        return None
    base, second = node.inputs[:2]
    assert base is not None
    assert second is not None
    if node.op == "Mul":
        return (base, node) if base is second else None
    return (base, node) if number_beside(second, base) == 2 else None
