"""The networkx views and the analyses on them."""

from __future__ import annotations

import networkx as nx

from graphopt.analysis.graphs import (
    critical_path,
    cut_values,
    find_pattern,
    immediate_dominators,
    node_graph,
    value_graph,
)
from graphopt.ir import Graph, Model
from graphopt.ir.text import parse

# x -> Relu -> (Exp | Neg -> Abs) -> Add -> Sqrt
DIAMOND = (
    "g (float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}> "
    "{ r = Relu(x)  e = Exp(r)  n = Neg(r)  a = Abs(n)  s = Add(e, a)  m = Mul(s, w)  y = Sqrt(m) }"
)


def graph_of(body: str) -> Graph:
    model: Model = parse('<ir_version: 10, opset_import: ["": 22]> ' + body)
    return model.graph


def by_op(graph: Graph) -> dict[str, object]:
    return {node.op_type: node for node in graph.nodes}


def test_node_graph() -> None:
    graph = graph_of(DIAMOND)
    view = node_graph(graph)
    ops = by_op(graph)
    assert nx.is_directed_acyclic_graph(view)
    assert set(view.successors(ops["Relu"])) == {ops["Exp"], ops["Neg"]}
    assert [v.name for v in view.edges[ops["Add"], ops["Mul"]]["values"]] == ["s"]
    whole = node_graph(graph, entry=True)
    assert [v for v, degree in whole.in_degree() if degree == 0] == ["<entry>"]
    assert [v for v, degree in whole.out_degree() if degree == 0] == ["<exit>"]


def test_value_graph_is_bipartite() -> None:
    graph = graph_of(DIAMOND)
    view = value_graph(graph)
    assert nx.is_bipartite(view)
    assert view.number_of_nodes() == len(graph.nodes) + 9
    assert nx.has_path(view, graph.inputs[0], graph.outputs[0])


def test_captures_are_edges() -> None:
    graph = graph_of(
        "g (bool c, float[3] x) => (float[3] y) { h = Relu(x)  y = If(c) <"
        "then_branch = t () => (float[3] a) { a = Neg(h) }, else_branch = e () => (float[3] b) { b = Abs(x) }> }"
    )
    ops = by_op(graph)
    assert node_graph(graph).has_edge(ops["Relu"], ops["If"])


def test_dominators() -> None:
    graph = graph_of(DIAMOND)
    ops = by_op(graph)
    dominators = immediate_dominators(graph)
    assert dominators[ops["Add"]] is ops["Relu"]
    assert dominators[ops["Abs"]] is ops["Neg"]
    assert dominators[ops["Relu"]] is None


def test_cuts() -> None:
    assert [v.name for v in cut_values(graph_of(DIAMOND))] == ["r", "s", "m"]
    two = graph_of("g (float[3] x) => (float[3] y, float[3] z) { a = Relu(x)  y = Neg(a)  z = Abs(a) }")
    assert [v.name for v in cut_values(two)] == ["a"]
    skip = graph_of("g (float[3] x) => (float[3] y) { a = Relu(x)  b = Neg(a)  y = Add(b, x) }")
    assert cut_values(skip) == []


def test_critical_path() -> None:
    graph = graph_of(DIAMOND)
    length, path = critical_path(graph)
    assert length == 6
    assert [node.op_type for node in path] == ["Relu", "Neg", "Abs", "Add", "Mul", "Sqrt"]
    length, path = critical_path(graph, lambda node: 10.0 if node.op_type == "Exp" else 1.0)
    assert length == 14
    assert "Exp" in [node.op_type for node in path]
    assert critical_path(graph_of("g (float[1] x) => (float[1] x) { }")) == (0.0, [])


def test_pattern() -> None:
    pattern = graph_of("p (float[3] a, float[3] b) => (float[3] z) { n = Neg(a)  z = Add(b, n) }")
    graph = graph_of(
        "g (float[3] x) => (float[3] y, float[3] z) { a = Neg(x)  b = Add(x, a)  c = Neg(b)  d = Add(c, b)  "
        "e = Add(b, c)  y = Relu(d)  z = Relu(e) }"
    )
    found = [{p.op_type: n.output.name for p, n in match.items()} for match in find_pattern(graph, pattern)]
    assert sorted(m["Add"] for m in found) == ["b", "e"]  # d has the operands the other way round


def test_a_long_chain_needs_no_recursion() -> None:
    body = "".join(f"v{i + 1} = Relu(v{i})\n" for i in range(5000))
    graph = graph_of(f"g (float[3] v0) => (float[3] v5000) {{ {body} }}")
    assert critical_path(graph)[0] == 5000
    assert len(cut_values(graph)) == 4999
    assert len(immediate_dominators(graph)) == 5000
