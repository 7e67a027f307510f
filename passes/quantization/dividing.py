"""Division of the channels that matmuls read, by factors that go into their weights: no result changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.ir import DType, Graph, Node, Value
from graphopt.passes.quantization.scalable import Region, region_of
from graphopt.rewriting.passes import PassContext


def read_by_matmuls(graph: Graph) -> dict[Value, list[Node]]:
    """Return the activations that products with constant matrices read, and these products."""
    found: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        data, weights = node.input(0), node.input(1)
        if node.op not in ("Gemm", "MatMul") or weights is None or weights.constant is None or node.attr("transA", 0):
            continue
        if weights.dtype is not DType.FLOAT or len(weights.shape or ()) != 2:
            continue
        if data is not None and data.rank in (2, 3) and data.constant is None and data.dtype is DType.FLOAT:
            found.setdefault(data, []).append(node)
    return found


def divide_channels(
    context: PassContext,
    value: Value,
    consumers: list[Node],
    choose: Callable[[list[Node]], np.ndarray],
    insert: bool,
) -> set[Value]:
    """Divide the channels of a value, along its last axis, or of what its consumers read of it.

    The division goes into what computes the value, or else, if `insert`, into a new Mul. `choose` returns the factors
    for the products that will read what was divided. Return the values that need not be looked at any more.
    """
    region = region_of(value, (value.rank or 0) - 1)
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


def _insert(context: PassContext, value: Value, consumers: list[Node], factors: np.ndarray) -> None:
    first = min(consumers, key=list(value.graph.nodes).index)
    rewriter = context.rewriter(value.graph, first)
    down = rewriter.constant((1 / factors).astype(np.float32), f"{value.name}/divisor")
    divided = rewriter.op("Mul", [value, down], types=[value.type], name=f"{value.name}/divide").output
    Region(len(factors), consumers=dict.fromkeys(consumers)).scale(context, factors)
    for node in consumers:
        rewriter.set_input(node, 0, divided)
