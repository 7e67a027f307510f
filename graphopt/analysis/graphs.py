"""Read-only views of a graph for networkx, and the analyses that passes and reports use most.

A view is a snapshot: it does not follow later changes. Nodes of nested graphs count as part of the node that contains
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import networkx as nx

from graphopt.ir.graph import Graph
from graphopt.ir.node import Node, Value

ENTRY = "<entry>"
"""The source in `node_graph(entry=True)`, before every node that reads only graph inputs or constants."""
EXIT = "<exit>"
"""The sink in `node_graph(entry=True)`, after every node that produces a graph output."""


def node_graph(graph: Graph, *, entry: bool = False) -> nx.DiGraph:
    """Return the nodes as a networkx graph: edges from producer to consumer, with the attribute `values`.

    With `entry`, two more vertices, ENTRY and EXIT, make it a graph with one source and one sink, as needed for
    dominators and cuts.
    """
    view = nx.DiGraph()
    view.add_nodes_from(graph.nodes)
    for node in graph.nodes:
        for value in dict.fromkeys(graph.dependencies(node)):
            if value.producer is not None:
                _add_edge(view, value.producer, node, value)
            elif entry and value.is_graph_input:
                _add_edge(view, ENTRY, node, value)
    if entry:
        view.add_nodes_from((ENTRY, EXIT))
        for value in graph.outputs:
            if value.graph is graph:
                _add_edge(view, value.producer or ENTRY, EXIT, value)
        for node in graph.nodes:
            if not view.in_degree(node):
                view.add_edge(ENTRY, node, values=())
    return view


def _add_edge(view: nx.DiGraph, source: Any, target: Any, value: Value) -> None:
    known = view.get_edge_data(source, target, {"values": ()})["values"]
    view.add_edge(source, target, values=(*known, value))


def value_graph(graph: Graph) -> nx.DiGraph:
    """Return nodes and values as a bipartite networkx graph: value to consumer, producer to value.

    Each vertex has the attribute `kind`, "node" or "value".
    """
    view = nx.DiGraph()
    view.add_nodes_from(graph.values(), kind="value")
    for node in graph.nodes:
        view.add_node(node, kind="node")
        view.add_edges_from((value, node) for value in graph.dependencies(node))
        view.add_edges_from((node, value) for value in node.outputs if value.name)
    return view


def immediate_dominators(graph: Graph) -> dict[Node, Node | None]:
    """Return, for each node, the last node on every path from the graph's inputs to it, or None.

    Cooper, Harvey and Kennedy, "A simple, fast dominance algorithm".
    """
    found = nx.immediate_dominators(node_graph(graph, entry=True), ENTRY)
    return {node: None if found[node] == ENTRY else found[node] for node in graph.nodes if node in found}


def cut_values(graph: Graph) -> list[Value]:
    """Return the values at which the graph can be cut: each alone carries all that is computed before and needed after.

    They are in graph order; constants do not count as carried. At these places a model can be split between two
    devices, or bisected.
    """
    order = list(graph.nodes)
    position = {node: index for index, node in enumerate(order)}
    last_use: dict[Value, int] = {}
    for node in order:
        for value in graph.dependencies(node):
            if value.constant is None:
                last_use[value] = position[node]
    for value in graph.outputs:
        last_use[value] = len(order)
    alive = {value for value in graph.inputs if value in last_use}
    cuts: list[Value] = []
    for index, node in enumerate(order):
        alive |= {value for value in node.outputs if value in last_use}
        alive -= {value for value in graph.dependencies(node) if last_use.get(value) == index}
        if len(alive) == 1:
            (value,) = alive
            if value.producer is not None and value not in graph.outputs and (not cuts or cuts[-1] is not value):
                cuts.append(value)
    return cuts


def critical_path(graph: Graph, cost: Callable[[Node], float] = lambda _: 1.0) -> tuple[float, list[Node]]:
    """Return the largest total cost of a chain of dependent nodes, and that chain.

    No number of processors can compute the graph in less. `cost` must not be negative.
    """
    best: dict[Node, tuple[float, Node | None]] = {}
    for node in graph.nodes:
        producers = [v.producer for v in graph.dependencies(node) if v.producer is not None]
        before = max(producers, key=lambda p: best[p][0], default=None)
        best[node] = (cost(node) + (best[before][0] if before is not None else 0.0), before)
    end = max(best, key=lambda node: best[node][0], default=None)
    total = best[end][0] if end is not None else 0.0
    path = []
    while end is not None:
        path.append(end)
        end = best[end][1]
    return total, path[::-1]


def find_pattern(graph: Graph, pattern: Graph) -> Iterator[dict[Node, Node]]:
    """Yield every occurrence of `pattern` in `graph` as a map from pattern nodes to graph nodes.

    Operators must be equal; attributes, inputs of the pattern and further users of a value are not compared. The
    pattern must be connected. Cordella and others, "A (sub)graph isomorphism algorithm for matching large graphs"
    (VF2).
    """
    matcher = nx.algorithms.isomorphism.DiGraphMatcher(
        _op_graph(graph),
        _op_graph(pattern),
        node_match=lambda a, b: a["op"] == b["op"],
        edge_match=lambda a, b: b["inputs"] <= a["inputs"],
    )
    for match in matcher.subgraph_monomorphisms_iter():
        yield {pattern_node: node for node, pattern_node in match.items()}


def _op_graph(graph: Graph) -> nx.DiGraph:
    view = nx.DiGraph()
    for node in graph.nodes:
        view.add_node(node, op=node.op)
    for node in graph.nodes:
        for index, value in enumerate(node.inputs):
            if value is not None and value.producer is not None and value.graph is graph:
                known = view.get_edge_data(value.producer, node, {"inputs": frozenset()})["inputs"]
                view.add_edge(value.producer, node, inputs=known | {(value.index, index)})
    return view
