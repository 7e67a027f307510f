"""Inheritance of names: a replacement takes over the name of a node or value as soon as that is free."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.ir import Node, Value, edit
from graphopt.ir.graph import Graph


class Heirs:
    """The new nodes and values of one rewriter, each waiting for the names of what it replaces.

    Users know the layers and weights of a model by name. A name becomes free only when its owner is removed, which is
    after its replacement was created; until then the replacement has a name of its own.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, list[Node]] = {}
        self._values: dict[tuple[Graph, str], list[Value]] = {}
        self._wanted: dict[Node, list[str]] = {}  # best first; only names better than the current one
        self._replacements: set[Node] = set()
        self._made: set[Value] = set()

    def add_node(self, node: Node, names: Iterable[str]) -> None:
        """Register a new node for `names`, the best first."""
        self._wanted[node] = [name for name in dict.fromkeys(names) if name]
        if node.name in self._wanted[node]:
            self._settle(node, node.name)
        for name in self._wanted[node]:
            self._nodes.setdefault(name, []).append(node)
        self._made.update(node.outputs)

    def add_value(self, value: Value, name: str) -> None:
        """Register a new initializer for `name`, or else for the name of the value that it replaces."""
        if not name:
            self._made.add(value)
        elif value.name != name:
            self._values.setdefault((value.graph, name), []).append(value)

    def replaced(self, old: Value, new: Value) -> None:
        """Record that `new` is read in place of `old`. A value that existed before keeps its name."""
        if new in self._made and old.graph is new.graph:
            self._made.discard(new)
            self._values.setdefault((old.graph, old.name), []).append(new)
            if new.producer is not None:
                self._replacements.add(new.producer)

    def node_gone(self, name: str, op_type: str) -> None:
        """Give the name of a removed node to its replacement, preferably one with the same operator."""
        waiting = [n for n in self._nodes.pop(name, ()) if not n.removed and name in self._wanted[n]]
        if not name or not waiting:
            return
        heir = min(waiting, key=lambda n: (n.op_type != op_type, n not in self._replacements))
        former = heir.name
        edit.rename_node(heir, name)
        self._settle(heir, name)
        self.node_gone(former, op_type)

    def value_gone(self, graph: Graph, name: str) -> None:
        """Give the name of a removed value to its replacement."""
        for heir in self._values.pop((graph, name), ()):
            alive = heir.graph.find(heir.name) is heir
            if alive and not heir.is_graph_output and not heir.is_graph_input:
                edit.rename_value(heir, name)
                return

    def _settle(self, node: Node, name: str) -> None:
        wanted = self._wanted[node]
        del wanted[wanted.index(name) :]
