"""Recognition of decomposed softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Node
from graphopt.passes.matching.match import NOTHING, axis_of, below_opset, integers, same_shape
from graphopt.passes.matching.means import keeps_axes
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.pattern import Capture, Match, Number, Pattern, any_of, op, optional


def _along_one_axis(found: Match) -> Miss | None:
    """Decline unless the exponentials are summed along one kept axis, along which the maximum is taken too."""
    total = found.named["sum"]
    axes = integers(total.input(1))
    if axes is None or len(axes) != 1:
        return Miss("the exponentials are not summed along one constant axis")
    if "view" in found.named and "inverse view" in found.named:
        return Miss("the summed axis is not kept")
    if not _keeps_axes(total, found.node("view") or found.node("inverse view")):
        return Miss("the summed axis is not kept")
    largest, data = found.node("largest"), found["x"]
    if largest is None:
        return None
    over = integers(largest.input(1))
    if over is None or len(over) != 1 or not _keeps_axes(largest, found.node("largest view")):
        return NOTHING
    if over != axes and (data.rank is None or (over[0] - axes[0]) % data.rank):
        return NOTHING
    return None if np.isneginf(found.numbers.get("least", -np.inf)) else NOTHING


def _is_last_axis(found: Match) -> Miss | None:
    data, flatten, reshape = found["x"], found.named["flatten"], found.root
    if data.rank is None or axis_of(flatten.attr("axis", 1), data.rank) != data.rank - 1:
        return Miss("the rows of the flattened softmax are not known to be the last axis")
    shape = found["shape"].producer
    whole = shape is not None and shape.op == "Shape" and shape.inputs[0] is data
    if whole and shape is not None and not shape.attr("start", 0) and shape.attr("end") is None:
        return None
    if not same_shape(data.shape, reshape.output.shape):
        return Miss("the softmax is not known to be reshaped back")
    return None


_VIEWS = ("Reshape", "Unsqueeze")
_X = Capture("x")
_LARGEST = op.ReduceMax(_X, ...).named("largest")
_BOUNDED = any_of(op.Max(_LARGEST, Number("least")), _LARGEST)  # some exporters write max(x, -infinity)
_EXP = op.Exp(any_of(op.Sub(_X, optional(_VIEWS, _BOUNDED, "largest view")), _X))
_SUM = optional(_VIEWS, op.ReduceSum(_EXP, ...).named("sum"), "view")
_QUOTIENT = any_of(op.Div(_EXP, _SUM), op.Mul(_EXP, optional(_VIEWS, op.Reciprocal(_SUM), "inverse view")))

_SOFTMAX = Pattern(
    _QUOTIENT.expect("the exponentials are not divided by just their sum"), at="Exp", check=_along_one_axis, near=1
)
_OF_MATRIX = Pattern(
    op.Reshape(
        op.Softmax(op.Flatten(_X).named("flatten"), axis=lambda axis: axis in (None, -1, 1)), Capture("shape"), ...
    ),
    at="Softmax",
    check=_is_last_axis,
    near=3,
)
"""A softmax of the last axis between a Flatten and the Reshape back, as converted from an old opset."""


@dataclass(frozen=True)
class FuseSoftmax(RewritePass):
    """Recognize exp(x) / sum(exp(x)) along one axis, with or without subtracting the largest x first, as Softmax.

    It also removes the Flatten and Reshape around a softmax of the last axis, which express its meaning before opset
    13. Without the subtraction, the nodes return NaN where exp overflows or everything underflows, and Softmax the
    correct numbers; wherever the nodes return numbers, Softmax returns the same ones.
    """

    name: ClassVar[str] = "fuse-softmax"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Exp", "Softmax")

    def match(self, node: Node, context: PassContext) -> Match | Miss:
        if node.op == "Softmax":
            return _OF_MATRIX.match(node)
        if not any(user.op == "ReduceSum" for user in node.output.users):
            return NOTHING
        found = _SOFTMAX.match(node)
        return found if isinstance(found, Miss) else below_opset(context) or found

    def rewrite(self, match: Match, rewriter: Rewriter) -> None:
        total = match.node("sum")
        axes = (-1,) if total is None else integers(total.input(1))
        assert axes is not None
        new = rewriter.op(
            "Softmax",
            [match["x"]],
            {"axis": axes[0]},
            types=[match.root.output.type],
            origin=match.nodes,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])


def _keeps_axes(reduce: Node, view: Node | None) -> bool:
    """Return whether a reduction keeps its axes as axes of size 1, itself or by a Reshape or Unsqueeze of it."""
    if view is None:
        return bool(reduce.attr("keepdims", 1))
    data, axes = reduce.inputs[0], integers(reduce.input(1))
    return data is not None and axes is not None and keeps_axes(data.shape, view.output.shape, axes)
