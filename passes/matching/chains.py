"""The cheapest order of a chain of matmuls (dynamic programming; Godbole, 1973)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.ir import Node, Value
from graphopt.rewriting.passes import Miss

MAX_FACTORS = 12
"""The length at which chains are cut: finding the best order takes time cubic in the length."""

Span = tuple[int, int]
"""The first and last factor of a part of the chain."""

Cost = tuple[int, int]
"""Numbers of multiplications: per row of an unknown number of rows, and independent of it."""


@dataclass(frozen=True)
class Chain:
    """A tree of matmuls as the list of its factors."""

    factors: tuple[Value, ...]
    nodes: tuple[Node, ...]
    """The products, the root first, each before those that it contains."""
    spans: dict[Node, tuple[Span, Span]]
    """The spans of the two factors of each product."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a chain: factor i is [sizes[i], sizes[i + 1]]; factor `flexible` stands for `times` matrices.

    `times`, the number of matrices or of rows of a matrix, is None if it is not known.
    """

    sizes: tuple[int, ...]
    flexible: int
    times: int | None


@dataclass(frozen=True)
class Plan:
    """The best order: `cuts` says where a span is divided; the spans in `ready` are computed ahead of time."""

    cost: Cost
    cuts: dict[Span, int]
    ready: frozenset[Span]

    def spans(self, length: int) -> Iterator[Span]:
        """The spans to compute, parts before wholes."""
        order: list[Span] = [(0, length - 1)]
        for span in order:
            if span not in self.ready and span[0] != span[1]:
                order += [(span[0], self.cuts[span]), (self.cuts[span] + 1, span[1])]
        yield from (span for span in reversed(order) if span[0] != span[1])


def chain_of(root: Node) -> Chain:
    """Return the matmuls that end in `root` and have no other use, and their factors from left to right."""
    slots = [(root, 0), (root, 1)]
    nodes = [root]
    index = 0
    while index < len(slots):
        node, position = slots[index]
        value = node.inputs[position]
        inner = None if value is None else value.producer
        grows = inner is not None and inner.op == "MatMul" and value is not None and value.sole_user is node
        if inner is None or not grows or len(slots) >= MAX_FACTORS:
            index += 1
            continue
        slots[index : index + 1] = [(inner, 0), (inner, 1)]
        nodes.append(inner)
    leaves = {slot: (i, i) for i, slot in enumerate(slots)}
    covered: dict[Node, Span] = {}
    spans: dict[Node, tuple[Span, Span]] = {}
    for node in reversed(nodes):
        left, right = (
            leaves[node, position] if (node, position) in leaves else covered[_producer(node, position)]
            for position in (0, 1)
        )
        spans[node], covered[node] = (left, right), (left[0], right[1])
    factors = [node.inputs[position] for node, position in slots]
    return Chain(tuple(v for v in factors if v is not None), tuple(nodes), spans)


def _producer(node: Node, position: int) -> Node:
    value = node.inputs[position]
    assert value is not None
    assert value.producer is not None
    return value.producer


def sizes_of(factors: tuple[Value, ...]) -> Sizes | Miss:
    """The sizes of a chain in which at most one factor has batch axes or an unknown outer size."""
    shapes = [value.shape if value.constant is None else value.constant.shape for value in factors]
    if any(shape is None or len(shape) < 2 for shape in shapes):
        return Miss("the factors are not known to be matrices")
    known = [shape for shape in shapes if shape is not None]
    last = len(known) - 1
    sizes = [known[0][-2], *(shape[-1] for shape in known)]
    flexible = {i for i, shape in enumerate(known) if len(shape) > 2}
    flexible |= {i for i, size in ((0, sizes[0]), (last, sizes[-1])) if not isinstance(size, int)}
    if len(flexible) > 1:
        return Miss("more than one factor has batch axes or an unknown outer size")
    if any(not isinstance(size, int) for size in sizes[1:-1]):
        return Miss("the inner sizes of the factors are not known")
    at = flexible.pop() if flexible else 0
    batch = known[at][:-2]
    unknown = any(not isinstance(dim, int) for dim in (*batch, sizes[0], sizes[-1]))
    times = None if unknown else math.prod(dim for dim in batch if isinstance(dim, int))
    return Sizes(tuple(size if isinstance(size, int) else 1 for size in sizes), at, times)


def product_cost(sizes: Sizes, left: Span, right: Span) -> Cost:
    """The multiplications of one product of two spans."""
    count = sizes.sizes[left[0]] * sizes.sizes[right[0]] * sizes.sizes[right[1] + 1]
    if not left[0] <= sizes.flexible <= right[1]:
        return 0, count
    return (count, 0) if sizes.times is None else (0, count * sizes.times)


def cost_now(chain: Chain, sizes: Sizes) -> Cost:
    """The multiplications of a chain in the order that it has."""
    costs = [product_cost(sizes, left, right) for left, right in chain.spans.values()]
    return sum(cost[0] for cost in costs), sum(cost[1] for cost in costs)


def best_plan(sizes: Sizes, constant: list[bool]) -> Plan:
    """The order with the least cost; spans of constants whose product is no larger than they are cost nothing."""
    length = len(constant)
    cost: dict[Span, Cost] = {(i, i): (0, 0) for i in range(length)}
    cuts: dict[Span, int] = {}
    ready: set[Span] = set()
    for width in range(1, length):
        for first in range(length - width):
            span = (first, first + width)
            if all(constant[first : span[1] + 1]) and _shrinks(sizes.sizes, span):
                ready.add(span)
                cost[span] = (0, 0)
                continue
            options = []
            for cut in range(first, span[1]):
                left, right = (first, cut), (cut + 1, span[1])
                here = product_cost(sizes, left, right)
                total = tuple(map(sum, zip(cost[left], cost[right], here)))
                options.append(((total[0], total[1]), cut))
            cost[span], cuts[span] = min(options)
    return Plan(cost[0, length - 1], cuts, frozenset(ready))


def _shrinks(sizes: tuple[int, ...], span: Span) -> bool:
    apart = sum(sizes[i] * sizes[i + 1] for i in range(span[0], span[1] + 1))
    return sizes[span[0]] * sizes[span[1] + 1] <= apart
