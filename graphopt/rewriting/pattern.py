"""A small language of patterns that reads like the ONNX expressions it matches.

    x = Capture("x")
    GELU = Pattern(x / 2 * (1 + op.Erf(x / math.sqrt(2))), at="Erf")
    found = GELU.match(node)        # a Match, or a Miss that says how far it went and what was in the way

`op.Name(inputs, attribute=value)` is a node of that operator. Sums, differences, products, quotients by numbers and
powers that are written with Python's operators are matched by what they compute: in any order, with factors split,
joined or moved, `Mul(0.5, x)` as well as `Div(x, 2)`.
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
"""Results after the node that is looked at, of which each may be the root."""


@dataclass(frozen=True)
class Pattern:
    """A pattern as a whole. No result inside may be used outside of it, or be an output, unless it is `shared`.

    at: the operator from which it is looked for, the root's by default.
    check: what else must hold of a match; it says why not, and then other ways to match are tried.
    near: how many nodes must match for a miss to be a near one, of which the report speaks.
    """

    root: Expression
    at: str = ""
    shared: bool = False
    check: Callable[[Match], Miss | None] | None = None
    near: int = 2

    def match(self, node: Node) -> Match | Miss:
        """The pattern around `node`, which is of the operator `at`, or why it is not there.

        Reasons name what was expected where the match that came furthest ended. The reason is empty where fewer than
        `near` nodes match.
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
        """Whether the pattern matches up to `node`: if it does not, nothing after it needs to be looked at."""
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
