"""The graph: an ordered list of nodes that may be modified during iteration, and the values between them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from .frozen import Frozen, write
from .node import Node, Value

if TYPE_CHECKING:
    from .model import Model


class NodeList(Frozen):
    """The nodes of a graph in order: a doubly linked list.

    Nodes may be inserted and removed during iteration: a removed node is not visited, a node inserted after the current
    one is. If the current node itself was removed, iteration continues with the node that followed it then, so that its
    replacement is not visited.
    """

    __slots__ = ("_length", "_root")

    _root: Node
    _length: int

    def __init__(self) -> None:
        root = Node("", name="<root>")
        write(root, "_previous", root)
        write(root, "_next", root)
        write(self, "_root", root)
        write(self, "_length", 0)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Node]:
        node = self._root._next
        while node is not self._root:
            assert node is not None
            if node._graph is not None:
                yield node
            # A removed node keeps its links, which sooner or later lead back into the list.
            node = node._next

    def __reversed__(self) -> Iterator[Node]:
        node = self._root._previous
        while node is not self._root:
            assert node is not None
            if node._graph is not None:
                yield node
            node = node._previous

    def __contains__(self, node: object) -> bool:
        return isinstance(node, Node) and node._graph is not None and node._graph.nodes is self

    @property
    def first(self) -> Node | None:
        return next(iter(self), None)

    @property
    def last(self) -> Node | None:
        return next(reversed(self), None)

    def _insert(self, node: Node, before: Node | None) -> None:
        following = before or self._root
        previous = following._previous
        assert previous is not None
        write(node, "_previous", previous)
        write(node, "_next", following)
        write(previous, "_next", node)
        write(following, "_previous", node)
        write(self, "_length", self._length + 1)

    def _remove(self, node: Node) -> None:
        previous, following = node._previous, node._next
        assert previous is not None
        assert following is not None
        write(previous, "_next", following)
        write(following, "_previous", previous)
        write(self, "_length", self._length - 1)


class Graph(Frozen):
    """A graph of ONNX operators: the main graph of a model, the body of a function, or an attribute of a node."""

    __slots__ = (
        "__weakref__",
        "_denoted_types",
        "_holders",
        "_initializers",
        "_inputs",
        "_model",
        "_outputs",
        "_parent",
        "_values",
        "doc_string",
        "metadata",
        "name",
        "nodes",
        "quantization_annotations",
    )

    name: str
    doc_string: str
    metadata: Mapping[str, str]
    nodes: NodeList
    quantization_annotations: tuple[bytes, ...]
    _model: Model
    _parent: Node | None
    _inputs: list[Value]
    _outputs: list[Value]
    _values: dict[str, Value]
    _initializers: dict[str, Value]
    _holders: dict[Node, None]
    _denoted_types: dict[Value, bytes]

    def __init__(self, model: Model, name: str = "", parent: Node | None = None) -> None:
        write(self, "name", name)
        write(self, "doc_string", "")
        write(self, "metadata", MappingProxyType({}))
        write(self, "_model", model)
        write(self, "_parent", parent)
        write(self, "quantization_annotations", ())  # carried, not interpreted: serialized onnx.TensorAnnotation
        write(self, "_denoted_types", {})  # serialized onnx.TypeProto of values that carry denotations
        self._clear()

    def _clear(self) -> None:
        """Remove all contents; only for new graphs and for those about to be filled again."""
        write(self, "nodes", NodeList())
        write(self, "_inputs", [])
        write(self, "_outputs", [])
        write(self, "_values", {})
        write(self, "_initializers", {})
        write(self, "_holders", {})  # the nodes that contain nested graphs, so that finding these needs no search

    @property
    def model(self) -> Model:
        return self._model

    @property
    def parent(self) -> Node | None:
        """The node that has this graph as an attribute; None for a main graph and for a function's body."""
        return self._parent

    @property
    def inputs(self) -> tuple[Value, ...]:
        return tuple(self._inputs)

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(self._outputs)

    @property
    def initializers(self) -> Mapping[str, Value]:
        """The graph's initializers by name, including graph inputs with a default that a caller may override."""
        return MappingProxyType(self._initializers)

    @property
    def denoted_types(self) -> Mapping[Value, bytes]:
        """The serialized onnx.TypeProto of each value whose type carries denotations."""
        return MappingProxyType(self._denoted_types)

    @property
    def version(self) -> int:
        """A number that every mutation anywhere in the model increments."""
        return self._model.version

    def find(self, name: str) -> Value | None:
        """The value of this name in this graph's own scope."""
        return self._values.get(name)

    def values(self) -> Iterator[Value]:
        """Every named value of this graph's own scope: inputs, initializers, node outputs."""
        return iter(tuple(self._values.values()))

    def all_graphs(self) -> Iterator[Graph]:
        """Yield this graph and every graph nested in it, outer before inner."""
        stack = [self]
        while stack:
            graph = stack.pop()
            yield graph
            for node in reversed(graph._holders):
                stack.extend(reversed(node.subgraphs))

    def all_nodes(self) -> Iterator[Node]:
        """Yield the nodes of this graph and of every graph nested in it."""
        for graph in self.all_graphs():
            yield from graph.nodes

    def encloses(self, other: Graph) -> bool:
        """Return whether `other` is this graph or is nested in it."""
        while other is not self:
            if other.parent is None:
                return False
            other = other.parent.graph
        return True

    def dependencies(self, node: Node) -> Iterator[Value]:
        """Yield the values of this graph that one of its nodes needs, including captures by nested graphs."""
        for value in node.inputs:
            if value is not None and value.graph is self:
                yield value
        for subgraph in node.subgraphs:
            for nested in subgraph.all_graphs():
                for output in nested._outputs:
                    if output.graph is self:
                        yield output
                for inner in nested.nodes:
                    yield from (v for v in inner.inputs if v is not None and v.graph is self)

    def is_sorted(self) -> bool:
        """Return whether every node comes after the producers of what it needs."""
        seen: set[Node] = set()
        for node in self.nodes:
            for value in self.dependencies(node):
                if value.producer is not None and value.producer not in seen:
                    return False
            seen.add(node)
        return True

    def topological_order(self) -> list[Node]:
        """Return the nodes in dependency order, as close to the current order as possible (Kahn, 1962).

        Nodes on a cycle, and those after it, are missing from the result.
        """
        position = {node: index for index, node in enumerate(self.nodes)}
        waiting: dict[Node, int] = {}
        followers: dict[Node, list[Node]] = {}
        for node in position:
            producers = {v.producer for v in self.dependencies(node) if v.producer is not None}
            waiting[node] = len(producers)
            for producer in producers:
                followers.setdefault(producer, []).append(node)
        nodes = list(position)
        ready = [index for index, node in enumerate(nodes) if waiting[node] == 0]
        order: list[Node] = []
        while ready:
            node = nodes[heapq.heappop(ready)]
            order.append(node)
            for follower in followers.get(node, ()):
                waiting[follower] -= 1
                if waiting[follower] == 0:
                    heapq.heappush(ready, position[follower])
        return order

    def __repr__(self) -> str:
        return f"<Graph {self.name!r}: {len(self.nodes)} nodes>"
