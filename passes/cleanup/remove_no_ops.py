"""Removal of nodes that return one of their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Node, Value
from graphopt.passes.matching.facts import OLD_OPSET
from graphopt.passes.matching.no_op_rules import NOTHING, RULES
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Found:
    node: Node
    value: Value


@dataclass(frozen=True)
class RemoveNoOps(RewritePass):
    """Remove nodes whose result is one of their inputs, bit for bit, for every input.

    Identity, Dropout at inference, casts to the same type, reshapes and expansions to the same shape, empty pads, whole
    slices, multiplication by one and the like. Adding +0.0 stays: it turns -0.0 into 0.0.
    """

    name: ClassVar[str] = "remove-no-ops"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    ops: ClassVar[tuple[str, ...]] = tuple(RULES)

    def match(self, node: Node, context: PassContext) -> _Found | Miss:
        found = RULES[node.op_type](node, context)
        if isinstance(found, Miss):
            return found
        if node.op_type == "Identity" and _is_needed(node, found):
            return NOTHING
        return _Found(node, found) if context.model.opset >= 18 else OLD_OPSET

    def rewrite(self, match: _Found, rewriter: Rewriter) -> None:
        omitted = [output for output in match.node.outputs[1:] if not output.has_uses]
        assert len(omitted) == len(match.node.outputs) - 1
        rewriter.replace(match.node, [match.value, *[None] * len(omitted)])


def _is_needed(node: Node, value: Value) -> bool:
    """Return whether an Identity is needed so that a graph can return a value with another role or name."""
    if not node.output.is_graph_output:
        return False
    foreign = value.is_graph_input or value.is_initializer or value.is_graph_output
    return foreign or value.graph is not node.graph
