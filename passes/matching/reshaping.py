"""Targets of Reshape: which constant says the same as a shape computed at run time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from graphopt.ir import Node
from graphopt.ir.facts import Kind, operators
from graphopt.passes.matching.facts import constant_ints, producer_of
from graphopt.rewriting.passes import PassContext

RESHAPES = tuple(sorted(operators(Kind.VIEW)))
"""Operators that keep the elements and their order, and change only the shape."""

Size = Hashable
"""A dimension: an int, something that stands for one size wherever it occurs, or None for an unknown size."""


def reshape_source(node: Node) -> Node | None:
    """The operator of `RESHAPES` that makes what `node` reshapes, if there is one."""
    return producer_of(node.input(0), *RESHAPES)


def target_for(source: Sequence[Size] | None, shape: Sequence[Size]) -> tuple[int, ...] | None:
    """The constant target with which Reshape turns shape `source` into `shape`, or None."""
    if 0 in shape:
        return None
    return constant_target(source, shape)


def constant_target(source: Sequence[Size] | None, target: Sequence[Size]) -> tuple[int, ...] | None:
    """A constant with the meaning of a Reshape target of which some sizes are only known at run time, or None.

    A 0 copies the dimension of `source` at the same place, if it is the same symbol. A -1 stands for the one size that
    cannot be told, but not beside a 0: with an empty batch, which the target as it was can handle, -1 cannot be found.
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
    """The target with which Reshape goes from shape `source` straight to the result of `node`, a second reshape."""
    own = constant_ints(node.input(1), context) if node.op_type == "Reshape" else None
    if own is not None and not node.attr("allowzero", 0):
        middle = None if node.inputs[0] is None else node.inputs[0].shape
        copied = [_copied(axis, middle, source) if size == 0 else size for axis, size in enumerate(own)]
        if None not in copied:
            return tuple(size for size in copied if size is not None)
    shape = node.output.shape
    return None if shape is None else target_for(source, shape)


def _copied(axis: int, middle: Sequence[Size] | None, source: Sequence[Size] | None) -> int | None:
    """What to write for a 0 that copies dimension `axis` of `middle` when the data now has shape `source`."""
    size = None if middle is None or axis >= len(middle) else middle[axis]
    if isinstance(size, int):
        return size if size > 0 else None
    same = size is not None and source is not None and axis < len(source) and source[axis] == size
    return 0 if same else None
