"""Targets of Reshape: constants that are equivalent to a shape computed at run time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from graphopt.ir import Node
from graphopt.ir.facts import Kind, operators
from graphopt.passes.matching.facts import constant_ints, producer_of
from graphopt.rewriting.passes import PassContext

RESHAPES = tuple(sorted(operators(Kind.VIEW)))
"""The operators that keep the elements and their order, and change only the shape."""

Size = Hashable
"""A dimension: an int, a symbol that stands for one size wherever it occurs, or None for an unknown size."""


def reshape_source(node: Node) -> Node | None:
    """Return the operator of `RESHAPES` whose result `node` reshapes, if there is one."""
    return producer_of(node.input(0), *RESHAPES)


def target_for(source: Sequence[Size] | None, shape: Sequence[Size]) -> tuple[int, ...] | None:
    """The constant target with which Reshape turns shape `source` into `shape`, or None."""
    if 0 in shape:
        return None
    return constant_target(source, shape)


def constant_target(source: Sequence[Size] | None, target: Sequence[Size]) -> tuple[int, ...] | None:
    """Return a constant that is equivalent to a Reshape target with some sizes only known at run time, or None.

    A 0 copies the dimension of `source` at the same position, if it is the same symbol. A -1 stands for the one unknown
    size, but not together with a 0: for an empty batch, which the original target supports, -1 would be undetermined.
    """
    result: list[int] = []
    unknown = 0
    for axis, size in enumerate(target):
        if isinstance(size, int):
            result.append(size)
        elif size is not None and source is not None and axis < len(source) and source[axis] == size:
            result.append(0)
        else:
            result.append(-1)
            unknown += 1
    if unknown and (0 in result or result.count(-1) > 1):
        return None
    return tuple(result)


def composed_target(node: Node, source: Sequence[Size] | None, context: PassContext) -> tuple[int, ...] | None:
    """Return the Reshape target from shape `source` directly to the result of `node`, a second reshape."""
    own = constant_ints(node.input(1), context) if node.op_type == "Reshape" else None
    if own is not None and not node.attr("allowzero", 0):
        middle = None if node.inputs[0] is None else node.inputs[0].shape
        copied = [_copied(axis, middle, source) if size == 0 else size for axis, size in enumerate(own)]
        if None not in copied:
            return tuple(size for size in copied if size is not None)
    shape = node.output.shape
    return None if shape is None else target_for(source, shape)


def _copied(axis: int, middle: Sequence[Size] | None, source: Sequence[Size] | None) -> int | None:
    """Return what replaces a 0 that copies dimension `axis` of `middle` if the data now has shape `source`."""
    size = None if middle is None or axis >= len(middle) else middle[axis]
    if isinstance(size, int):
        return size if size > 0 else None
    same = size is not None and source is not None and axis < len(source) and source[axis] == size
    return 0 if same else None
