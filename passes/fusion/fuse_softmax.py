"""Softmax, spelled out, as the operator Softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.passes.fusion._match import ESCAPES, NOTHING, below_opset, escapes, integers, produced_by

from graphopt.ir import Node, Value
from graphopt.rewrite import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Match:
    root: Node
    data: Value
    axis: int
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class FuseSoftmax(RewritePass):
    """Recognize exp(x) / sum(exp(x)) along one axis, with or without the largest x taken off first, as Softmax.

    Without that subtraction the nodes give NaN where exp overflows or all of it underflows, and Softmax gives the
    right numbers; wherever the nodes give numbers, Softmax gives the same ones.
    """

    name: ClassVar[str] = "fuse-softmax"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Exp",)

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        total = next((user for user in node.output.users if user.op == "ReduceSum"), None)
        if total is None:
            return NOTHING
        root = _quotient(node.output, total.output)
        if isinstance(root, Miss):
            return root
        if (old := below_opset(context)) is not None:
            return old
        axes = integers(total.input(1))
        if axes is None or len(axes) != 1:
            return Miss("the exponentials are not summed along one constant axis")
        if not total.attr("keepdims", 1):
            return Miss("the summed axis is not kept")
        argument = node.inputs[0]
        assert argument is not None
        data, nodes = _without_largest(argument, axes[0])
        nodes = (*nodes, node, total, *_between(root, total.output), root)
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


def _quotient(exponential: Value, total: Value) -> Node | Miss:
    """The node that divides the exponentials by their sum."""
    user = total.sole_user
    if user is None:
        return Miss(ESCAPES)
    if user.op == "Div" and user.inputs[0] is exponential and user.inputs[1] is total:
        return user
    inverse = user.output.sole_user if user.op == "Reciprocal" else None
    if inverse is not None and inverse.op == "Mul" and exponential in inverse.inputs:
        return inverse
    return Miss("the exponentials are not divided by just their sum")


def _between(root: Node, total: Value) -> tuple[Node, ...]:
    user = total.sole_user
    return () if user is None or user is root else (user,)


def _without_largest(argument: Value, axis: int) -> tuple[Value, tuple[Node, ...]]:
    """The x of `x - max(x)`, and its nodes; the argument itself if it is something else."""
    subtract = produced_by(argument, "Sub")
    if subtract is None:
        return argument, ()
    data = subtract.inputs[0]
    largest = produced_by(subtract.inputs[1], "ReduceMax")
    if data is None or largest is None or largest.inputs[0] is not data or not largest.attr("keepdims", 1):
        return argument, ()
    axes = integers(largest.input(1))
    if axes is None or len(axes) != 1:
        return argument, ()
    if axes[0] != axis and (data.rank is None or (axes[0] - axis) % data.rank):
        return argument, ()
    return data, (subtract, largest)
