"""Division of the channels that products read, by factors that go into their weights: no result changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.compression.products import is_summing
from graphopt.ir import DType, Graph, Node, Value
from graphopt.passes.quantization.scalable import Region, region_of
from graphopt.rewriting.passes import PassContext


def read_by_matmuls(graph: Graph) -> dict[Value, list[Node]]:
    """Return the activations that products with constant matrices read, and these products."""
    return _read(graph, ("Gemm", "MatMul"))


def read_by_products(graph: Graph) -> dict[Value, list[Node]]:
    """Return the activations that either convolutions or products with constant matrices read, and these products."""
    found = _read(graph, ("Conv", "Gemm", "MatMul"))
    return {value: nodes for value, nodes in found.items() if len({node.op == "Conv" for node in nodes}) == 1}


def _read(graph: Graph, ops: tuple[str, ...]) -> dict[Value, list[Node]]:
    found: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        data, weights = node.input(0), node.input(1)
        if node.op not in ops or weights is None or weights.constant is None or node.attr("transA", 0):
            continue
        if weights.dtype is not DType.FLOAT or not is_summing(node):
            continue
        ranks = (4, 5) if node.op == "Conv" else (2, 3)
        if data is not None and data.rank in ranks and data.constant is None and data.dtype is DType.FLOAT:
            found.setdefault(data, []).append(node)
    return found


def divide_channels(
    context: PassContext,
    value: Value,
    consumers: list[Node],
    choose: Callable[[list[Node]], np.ndarray],
    insert: bool,
) -> set[Value]:
    """Divide the channels of a value that products read, or of what they read of it.

    The division goes into what computes the value, or else, if `insert`, into a new Mul. `choose` returns the factors
    for the products that will read what was divided. Return the values that need not be looked at any more.
    """
    region = region_of(value, _axis(value, consumers))
    if isinstance(region, Region):
        factors = choose(list(region.consumers))
        if np.any(factors != 1):
            region.scale(context, factors)
            context.count("activations divided")
        return set(region.axes)
    if not insert:
        context.miss(region, consumers[0])
        return {value}
    factors = choose(consumers)
    if np.any(factors != 1):
        _insert(context, value, consumers, factors)
        context.count("activations divided by a Mul")
    return {value}


def _axis(value: Value, consumers: list[Node]) -> int:
    return 1 if consumers[0].op == "Conv" else (value.rank or 0) - 1


def _insert(context: PassContext, value: Value, consumers: list[Node], factors: np.ndarray) -> None:
    first = min(consumers, key=list(value.graph.nodes).index)
    rewriter = context.rewriter(value.graph, first)
    shape = [-1, *[1] * ((value.rank or 0) - 1 - _axis(value, consumers))]
    down = rewriter.constant((1 / factors).astype(np.float32).reshape(shape), f"{value.name}/divisor")
    divided = rewriter.op("Mul", [value, down], types=[value.type], name=f"{value.name}/divide").output
    Region(len(factors), consumers=dict.fromkeys(consumers)).scale(context, factors)
    for node in consumers:
        rewriter.set_input(node, 0, divided)
