"""A small pattern language that reads like the ONNX expressions it matches.

    x = Capture("x")
    GELU = Pattern(x / 2 * (1 + op.Erf(x / math.sqrt(2))), at="Erf")
    result = GELU.match(node)        # a Match, or a Miss that says how far matching got and what did not fit

`op.Name(inputs, attribute=value)` is a node of that operator. Sums, differences, products, quotients by numbers and
powers that are written with Python's operators are matched by meaning: in any order, with factors split, joined or
moved, `Mul(0.5, x)` as well as `Div(x, 2)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from graphopt.ir import Node

from .expressions import (
    Arithmetic,
    Capture,
    Expression,
    Number,
    Op,
    Optional,
    any_of,
    constant,
    op,
    optional,
)
from .match import Match, State
from .matcher import Search
from .passes import Miss
from .polynomial import OPERATORS
from .values import ESCAPES, escapes

__all__ = ["Capture", "Expression", "Match", "Number", "Pattern", "any_of", "constant", "op", "optional"]

MOST_ROOTS = 24
"""The limit on the number of results after the anchor that are tried as the root."""


@dataclass(frozen=True)
class Pattern:
    """A complete pattern. Intermediate results must not be used outside of it, or be outputs, unless it is `shared`.

    at: the operator of the anchor, where matching begins; the root's by default.
    check: inspects a match and returns a reason against it, if any; other ways to match are then tried.
    near: how many nodes must match for a miss to be reported as a near miss.
    """

    root: Expression
    at: str = ""
    shared: bool = False
    check: Callable[[Match], Miss | None] | None = None
    near: int = 2

    def match(self, node: Node) -> Match | Miss:
        """Match the pattern around `node`, which has the operator `at`.

        The reason of a miss says what was expected where the attempt that got furthest failed. It is empty if fewer
        than `near` nodes match.
        """
        anchors = [part for part in self.root.parts() if isinstance(part, Op) and part.op_type == self.at]
        search = Search(self.root, anchors, node)
        if anchors and not self._reaches(search, anchors, node):
            return search.miss(self.near)
        for root in self._roots(node):
            for state in search.match(self.root, root.output, State()):
                if anchors and not any(state.matched.get(anchor) is node for anchor in anchors):
                    continue
                found = Match(root, state.nodes, state.values, state.numbers, state.named)
                reason = self._objection(found)
                if reason is None:
                    return found
                search.fail(len(state.nodes), reason.reason, always=True)
        return search.miss(self.near)

    def _objection(self, found: Match) -> Miss | None:
        reason = None if self.check is None else self.check(found)
        if reason is None and not self.shared and escapes(found.nodes, found.root):
            return Miss(ESCAPES)
        return reason

    def _reaches(self, search: Search, anchors: list[Op], node: Node) -> bool:
        """Return whether the pattern matches up to `node`; if not, there is no need to look at its consumers."""
        reached = [len(state.nodes) for anchor in anchors for state in search.first(anchor, node.output)]
        if reached:
            search.fail(max(reached), self.root.expected or (self.root, node.output))
        return bool(reached)

    def _roots(self, node: Node) -> Iterator[Node]:
        """Nodes after `node`, itself included, that may be the root: those that operators of the pattern lead to."""
        yield node
        if not self.at:
            return
        inner: set[str] = set()
        for part in self.root.parts():
            inner |= _heads(part)
        queue = [node]
        for current in queue:
            for user in current.output.users if current.outputs else ():
                if user.op in inner and user.graph is node.graph and user not in queue and len(queue) < MOST_ROOTS:
                    queue.append(user)
                    yield user


def _heads(part: Expression) -> set[str]:
    match part:
        case Op():
            return {part.op_type}
        case Optional():
            return set(part.links)
        case Arithmetic():
            return set(OPERATORS)
    return set()
