"""Where quantization goes: which nodes compute on integers, and which values need a scale.

A value is rounded to integers where a node that computes on integers reads it, after everything that a kernel computes
together with its products: a convolution's result after its activation function, not before.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from graphopt.ir import DType, Graph, Node, Value
from graphopt.ir.facts import Trait, facts_of, operators
from graphopt.passes.quantization.ignoring import ignored_nodes
from graphopt.rewriting.passes import PassContext

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that multiply by weights: most of a model's arithmetic."""
JOINS = operators(traits=Trait.JOINS_SCALES)
"""Operators of several activations that have integer kernels in most runtimes."""
AVERAGES = operators(traits=Trait.AVERAGES)
_ACTIVATIONS = operators(traits=Trait.CUTS_RANGE)
"""Functions of which a range of integers does nothing but cut: kernels have them for nothing."""


@dataclass
class Placement:
    """What is to be quantized.

    `products`: nodes of `graph` with constant weights, whose data, weights and bias become integers. `values`:
    activations that get a scale. `equal`: groups of these that must have the same one.
    """

    graph: Graph
    products: list[Node] = field(default_factory=list)
    values: dict[Value, None] = field(default_factory=dict)
    equal: list[set[Value]] = field(default_factory=list)


def keeps_scale(node: Node) -> bool:
    """Return whether the result holds only numbers that the data inputs hold: it needs no scale of its own."""
    return Trait.KEEPS_SCALE in facts_of(node.op).traits


def place(graph: Graph, context: PassContext, ignore: Sequence[str]) -> Placement:
    """Return where to quantize; the context counts the products that stay floats, by reason.

    `ignore` has patterns, see `ignored_nodes`.
    """
    placement = Placement(graph)
    ignored = ignored_nodes(graph, ignore, context)
    for node in graph.nodes:
        if node.op in PRODUCTS:
            reason = _refused(node, ignored)
            if reason is None:
                placement.products.append(node)
            else:
                context.miss(f"{node.op}: {reason}", node)
    for node in placement.products:
        data = node.inputs[0]
        assert data is not None
        placement.values[data] = None
    for node in _between(placement.products, graph, ignored):
        if node.op not in _ACTIVATIONS:
            placement.values.update(dict.fromkeys(_data(node)))
        if keeps_scale(node):
            placement.values[node.output] = None
            _unite(placement.equal, [*_data(node), node.output])
    return placement


def _refused(node: Node, ignored: Set[Node]) -> str | None:
    data, weights = node.input(0), node.input(1)
    if node in ignored:
        return "it is to be left alone"
    if weights is None or weights.constant is None:
        return "its weights are not constant"
    if weights.dtype is not DType.FLOAT or data is None or data.dtype is not DType.FLOAT:
        return "it does not compute in float32"
    if len(weights.shape or ()) < 2:
        return "its weights are a vector"
    if node.op == "Gemm" and (node.attr("transA", 0) or node.attr("alpha", 1.0) != 1 or node.attr("beta", 1.0) != 1):
        return "it is scaled or transposed"
    bias = node.input(2)
    return "its bias is not constant" if bias is not None and bias.constant is None else None


def _between(products: Sequence[Node], graph: Graph, ignored: Set[Node]) -> list[Node]:
    """Return the nodes that only join, cut and move results of products, and whose results reach a product again."""
    integers: set[Node] = set(products)
    for node in graph.nodes:
        if node.op in JOINS | AVERAGES | _ACTIVATIONS or keeps_scale(node):
            data = _data(node)
            reached = bool(data) and all(value.producer in integers for value in data)
            if reached and node.output.dtype is DType.FLOAT and node not in ignored:
                integers.add(node)
    useful: set[Node] = set(products)
    for node in reversed(list(graph.nodes)):
        if node in integers and any(use.node in useful for use in node.output.uses):
            useful.add(node)
    return [node for node in graph.nodes if node in useful and node.op not in PRODUCTS]


def _data(node: Node) -> list[Value]:
    facts = facts_of(node.op)
    broadcast = node.op in JOINS
    return [v for i, v in enumerate(node.inputs) if v is not None and (broadcast or facts.is_data(i))]


def _unite(groups: list[set[Value]], values: Sequence[Value]) -> None:
    """Put values into one group, with all groups that any of them is in."""
    joined = set(values)
    for group in [group for group in groups if group & joined]:
        joined |= group
        groups.remove(group)
    groups.append(joined)
