"""Simplification of chains of Reshape, Flatten, Squeeze and Unsqueeze."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Node, Value
from graphopt.passes.matching.facts import OLD_OPSET, constant_ints, producer_of, same_shape
from graphopt.passes.matching.reshaping import RESHAPES, composed_target, reshape_source
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Found:
    node: Node
    inner: Node
    source: Value
    target: tuple[int, ...] | None  # None: the result is the source itself


@dataclass(frozen=True)
class _Rows:
    """A Softmax along the last axis between two reshapes that leave the last axis alone."""

    node: Node
    softmax: Node
    source: Value


@dataclass(frozen=True)
class SimplifyReshape(RewritePass):
    """Compose chains of Reshape, Flatten, Squeeze and Unsqueeze into one Reshape, or into nothing.

    With symbolic dimensions, only if one constant target is right for every size, including an empty batch. A Softmax
    over the rows of a matrix that was flattened for it, and is reshaped back after it, needs neither reshape.
    """

    name: ClassVar[str] = "simplify-reshape"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    ops: ClassVar[tuple[str, ...]] = RESHAPES

    def match(self, node: Node, context: PassContext) -> _Found | _Rows | Miss:
        rows = _softmax_of_rows(node)
        if rows is not None:
            return rows if context.model.opset >= 18 else OLD_OPSET
        inner = reshape_source(node)
        source = None if inner is None else inner.input(0)
        if inner is None or source is None:
            return Miss("")
        if context.model.opset < 18:
            return OLD_OPSET
        if _restores(node, source) or _undoes(node, inner, context):
            return _Found(node, inner, source, None)
        target = composed_target(node, source.shape, context)
        if target is None:
            return Miss("no constant target is right for every size of the dimensions")
        return _Found(node, inner, source, target)

    def rewrite(self, match: _Found | _Rows, rewriter: Rewriter) -> None:
        value = match.source
        if isinstance(match, _Rows):
            op, types = match.softmax.op_type, [match.node.output.type]
            value = rewriter.op(op, [value], {"axis": -1}, types=types, origin=(match.softmax,)).output
        elif match.target is not None:
            target = rewriter.constant(np.array(match.target, np.int64), f"{match.node.output.name}_shape")
            reshape = rewriter.op(
                "Reshape", [value, target], types=[match.node.output.type], origin=(match.inner, match.node)
            )
            value = reshape.output
        rewriter.replace(match.node, [value])


def _softmax_of_rows(node: Node) -> _Rows | None:
    softmax = producer_of(node.input(0), "Softmax", "LogSoftmax")
    flatten = None if softmax is None else reshape_source(softmax)
    source = None if flatten is None else flatten.input(0)
    if softmax is None or flatten is None or source is None or softmax.output.sole_user is not node:
        return None
    matrix = flatten.output.shape
    if not source.shape or not matrix or softmax.attr("axis", -1) not in (-1, len(matrix) - 1):
        return None
    same_rows = matrix[-1] is not None and matrix[-1] == source.shape[-1]
    return _Rows(node, softmax, source) if same_rows and _restores(node, source) else None


def _restores(node: Node, source: Value) -> bool:
    """Return whether the result of a reshape of the elements of `source` has the shape of `source`."""
    shape = producer_of(node.input(1), "Shape") if node.op_type == "Reshape" else None
    if shape is not None and shape.input(0) is source and not shape.attributes:
        return True
    return same_shape(source.shape, node.output.shape)


def _undoes(node: Node, inner: Node, context: PassContext) -> bool:
    """Return whether one of Squeeze and Unsqueeze undoes the other: both count axes in the longer shape."""
    if {node.op_type, inner.op_type} != {"Squeeze", "Unsqueeze"}:
        return False
    axes = constant_ints(node.input(1), context)
    inner_axes = constant_ints(inner.input(1), context)
    return axes is not None and inner_axes is not None and sorted(axes) == sorted(inner_axes)
