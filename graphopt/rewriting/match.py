"""The state of a match, during the search and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from graphopt.ir import Node, Value

from .expressions import Op


@dataclass(frozen=True)
class Match:
    """The result of matching a pattern: `root` and all other nodes, values and numbers by name."""

    root: Node
    nodes: tuple[Node, ...]
    values: dict[str, Value]
    numbers: dict[str, float]
    named: dict[str, Node]

    def __getitem__(self, name: str) -> Value:
        """Return the value of a capture."""
        return self.values[name]

    def node(self, name: str) -> Node | None:
        """Return the node that a named operator matched; None if it is an optional one that is absent."""
        return self.named.get(name)


class State(NamedTuple):
    """What was matched so far."""

    values: dict[str, Value] = {}
    numbers: dict[str, float] = {}
    nodes: tuple[Node, ...] = ()
    named: dict[str, Node] = {}
    matched: dict[Op, Node] = {}

    def with_nodes(self, *nodes: Node) -> State:
        """The same, and these nodes."""
        return self._replace(nodes=(*self.nodes, *(node for node in nodes if node not in self.nodes)))
