"""Chains of Reshape, Flatten, Squeeze and Unsqueeze."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from graphopt.passes.cleanup.facts import OLD_OPSET, constant_ints, same_shape
from graphopt.passes.cleanup.reshaping import RESHAPES, composed_target, reshape_source

from graphopt.ir import Node, Value
from graphopt.rewrite import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Found:
    node: Node
    inner: Node
    source: Value
    target: tuple[int, ...] | None  # None: the result is the source itself


@dataclass(frozen=True)
class SimplifyReshape(RewritePass):
    """Compose chains of Reshape, Flatten, Squeeze and Unsqueeze into one Reshape, or into nothing.

    With symbolic dimensions only where one constant target is right for every size, an empty batch included.
    """

    name: ClassVar[str] = "simplify-reshape"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    ops: ClassVar[tuple[str, ...]] = RESHAPES

    def match(self, node: Node, context: PassContext) -> _Found | Miss:
        inner = reshape_source(node)
        source = None if inner is None else inner.input(0)
        if inner is None or source is None:
            return Miss("")
        if context.model.opset < 18:
            return OLD_OPSET
        if same_shape(source.shape, node.output.shape) or _undoes(node, inner, context):
            return _Found(node, inner, source, None)
        target = composed_target(node, source.shape, context)
        if target is None:
            return Miss("no constant target is right for every size of the dimensions")
        return _Found(node, inner, source, target)

    def rewrite(self, match: _Found, rewriter: Rewriter) -> None:
        value = match.source
        if match.target is not None:
            target = rewriter.constant(np.array(match.target, np.int64), f"{match.node.output.name}_shape")
            reshape = rewriter.op(
                "Reshape", [value, target], types=[match.node.output.type], origin=(match.inner, match.node)
            )
            value = reshape.output
        rewriter.replace(match.node, [value])


def _undoes(node: Node, inner: Node, context: PassContext) -> bool:
    """Whether one of Squeeze and Unsqueeze takes back what the other did: both count axes in the longer shape."""
    if {node.op_type, inner.op_type} != {"Squeeze", "Unsqueeze"}:
        return False
    axes = constant_ints(node.input(1), context)
    inner_axes = constant_ints(inner.input(1), context)
    return axes is not None and inner_axes is not None and sorted(axes) == sorted(inner_axes)
