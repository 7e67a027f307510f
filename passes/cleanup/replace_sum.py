"""Replacement of sums of one or two values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Node
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class ReplaceSum(RewritePass):
    """Write a `Sum` of two values as `Add`, and use that of a single one directly.

    Runtimes fuse additions, and have integer kernels for them, but not for sums.
    """

    name: ClassVar[str] = "replace-sum"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    ops: ClassVar[tuple[str, ...]] = ("Sum",)

    def match(self, node: Node, context: PassContext) -> Node | Miss:
        return node if len(node.inputs) <= 2 and None not in node.inputs else Miss("it has more than two terms")

    def rewrite(self, match: Node, rewriter: Rewriter) -> None:
        if len(match.inputs) == 1:
            rewriter.replace(match, [match.inputs[0]])
            return
        added = rewriter.op("Add", match.inputs, origin=[match], types=[match.output.type])
        rewriter.replace(match, [added.output])
