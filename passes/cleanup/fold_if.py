"""Folding of `If` with a constant condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph, Node
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Found:
    node: Node
    branch: Graph


@dataclass(frozen=True)
class FoldIf(RewritePass):
    """Replace an If whose condition is constant by the branch that it takes.

    Captures of the branch are kept; names of the branch that exist outside are changed.
    """

    name: ClassVar[str] = "fold-if"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    ops: ClassVar[tuple[str, ...]] = ("If",)

    def match(self, node: Node, context: PassContext) -> _Found | Miss:
        condition = node.input(0)
        array = None if condition is None else context.array(condition, 1)
        if array is None or array.size != 1:
            return Miss("the condition is not constant")
        branch = node.attr("then_branch" if array.reshape(-1)[0] else "else_branch")
        return Miss("") if branch is None else _Found(node, branch)

    def rewrite(self, match: _Found, rewriter: Rewriter) -> None:
        values = rewriter.inline(match.branch, {})
        rewriter.replace(match.node, values)
