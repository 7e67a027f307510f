"""Softmax, spelled out, as the operator Softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Node, Value
from graphopt.passes.matching.match import (
    ESCAPES,
    NOTHING,
    axis_of,
    below_opset,
    escapes,
    integers,
    number_beside,
    operands,
    produced_by,
    same_shape,
)
from graphopt.passes.matching.means import keeps_axes
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Match:
    root: Node
    data: Value
    axis: int
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class FuseSoftmax(RewritePass):
    """Recognize exp(x) / sum(exp(x)) along one axis, with or without the largest x taken off first, as Softmax.

    Also takes away the Flatten and Reshape around a softmax of the last axis, which were its meaning before opset 13.
    Without that subtraction the nodes give NaN where exp overflows or all of it underflows, and Softmax gives the
    right numbers; wherever the nodes give numbers, Softmax gives the same ones.
    """

    name: ClassVar[str] = "fuse-softmax"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Exp", "Softmax")

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        if node.op == "Softmax":
            return _of_matrix(node)
        total = next((user for user in node.output.users if user.op == "ReduceSum"), None)
        if total is None:
            return NOTHING
        found = _quotient(node.output, total.output)
        if isinstance(found, Miss):
            return found
        root, behind = found
        if (old := below_opset(context)) is not None:
            return old
        axes = integers(total.input(1))
        if axes is None or len(axes) != 1:
            return Miss("the exponentials are not summed along one constant axis")
        views = [inner for inner in behind if inner.op in _VIEWS]
        if len(views) > 1 or not _keeps_axes(total, views[0] if views else None):
            return Miss("the summed axis is not kept")
        argument = node.inputs[0]
        assert argument is not None
        data, nodes = _without_largest(argument, axes[0])
        nodes = (*nodes, node, total, *behind, root)
        if escapes(nodes, root):
            return Miss(ESCAPES)
        return _Match(root, data, axes[0], nodes)

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        new = rewriter.op(
            "Softmax",
            [match.data],
            {"axis": match.axis},
            types=[match.root.output.type],
            origin=match.nodes,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])


def _keeps_axes(reduce: Node, view: Node | None) -> bool:
    """Whether a reduction keeps its axes as axes of size 1, itself or by the Reshape or Unsqueeze `view` behind it."""
    if view is None:
        return bool(reduce.attr("keepdims", 1))
    data, axes = reduce.inputs[0], integers(reduce.input(1))
    return data is not None and axes is not None and keeps_axes(data.shape, view.output.shape, axes)


_VIEWS = ("Reshape", "Unsqueeze")


def _quotient(exponential: Value, total: Value) -> tuple[Node, tuple[Node, ...]] | Miss:
    """The node that divides the exponentials by their sum, and what stands between the sum and it."""
    between: list[Node] = []
    user = total.sole_user
    while user is not None and user.op in (*_VIEWS, "Reciprocal") and user.inputs[0] is total and len(between) < 3:
        between.append(user)
        total = user.output
        user = total.sole_user
    if user is None:
        return Miss(ESCAPES)
    inverted = [node.op for node in between].count("Reciprocal")
    if user.op == "Div" and not inverted and user.inputs[0] is exponential and user.inputs[1] is total:
        return user, tuple(between)
    if user.op == "Mul" and inverted == 1 and exponential in user.inputs:
        return user, tuple(between)
    return Miss("the exponentials are not divided by just their sum")


def _without_largest(argument: Value, axis: int) -> tuple[Value, tuple[Node, ...]]:
    """The x of `x - max(x)`, and its nodes; the argument itself if it is something else."""
    subtract = produced_by(argument, "Sub")
    if subtract is None:
        return argument, ()
    data, largest = subtract.inputs[0], subtract.inputs[1]
    view = produced_by(largest, *_VIEWS)
    source = view.inputs[0] if view is not None else largest
    bound = _lower_bound(source)
    reduce = produced_by(source if bound is None else bound[0], "ReduceMax")
    if data is None or reduce is None or reduce.inputs[0] is not data or not _keeps_axes(reduce, view):
        return argument, ()
    axes = integers(reduce.input(1))
    if axes is None or len(axes) != 1:
        return argument, ()
    if axes[0] != axis and (data.rank is None or (axes[0] - axis) % data.rank):
        return argument, ()
    between = (() if view is None else (view,)) + (() if bound is None else (bound[1],))
    return data, (subtract, reduce, *between)


def _lower_bound(value: Value | None) -> tuple[Value, Node] | None:
    """The x of `max(x, -infinity)`, which some exporters write, and that node."""
    node = produced_by(value, "Max")
    if node is None or len(node.inputs) != 2:
        return None
    for data, bound in operands(node):
        amount = number_beside(bound, data)
        if amount is not None and np.isneginf(amount):
            return data, node
    return None


def _of_matrix(softmax: Node) -> _Match | Miss:
    """A softmax of the last axis between a Flatten and the Reshape back, as one written for an old opset becomes."""
    flatten, reshape = produced_by(softmax.inputs[0], "Flatten"), softmax.output.sole_user
    if flatten is None or reshape is None or reshape.op != "Reshape" or softmax.attr("axis", -1) not in (-1, 1):
        return NOTHING
    data = flatten.inputs[0]
    if data is None or data.rank is None or axis_of(flatten.attr("axis", 1), data.rank) != data.rank - 1:
        return Miss("the rows of the flattened softmax are not known to be the last axis")
    shape = produced_by(reshape.inputs[1], "Shape")
    whole = shape is not None and shape.inputs[0] is data and not shape.attr("start", 0) and shape.attr("end") is None
    if not whole and not same_shape(data.shape, reshape.output.shape):
        return Miss("the softmax is not known to be reshaped back")
    nodes = (flatten, softmax, reshape)
    return Miss(ESCAPES) if escapes(nodes, reshape) else _Match(reshape, data, -1, nodes)
