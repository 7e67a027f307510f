"""What was matched: while a pattern is looked for, and in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from graphopt.ir import Node, Value

from .expressions import Op


@dataclass(frozen=True)
class Match:
    """What a pattern matched: `root` and every other node of it, the values and numbers by name."""

    root: Node
    nodes: tuple[Node, ...]
    values: dict[str, Value]
    numbers: dict[str, float]
    named: dict[str, Node]

    def __getitem__(self, name: str) -> Value:
        """The value that a capture stands for."""
        return self.values[name]

    def node(self, name: str) -> Node | None:
        """The node that a named operator matched; None if it is an optional one that is not there."""
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
