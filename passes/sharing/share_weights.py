"""Weights that are equal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import DType, Graph, Value
from graphopt.rewrite import Fidelity, Pass, PassContext


@dataclass(frozen=True)
class ShareWeights(Pass):
    """Store equal weights once, in nested graphs too.

    Weights of nested graphs that are equal to each other move to the main graph, where all of them see it. Weights
    that a caller may override, and those that a graph gives out under their own name, stay. Only tensors of equal type
    and shape are read and compared.

    min-bytes: weights smaller than this are left alone.
    """

    name: ClassVar[str] = "share-weights"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    min_bytes: int = 0

    def run(self, graph: Graph, context: PassContext) -> None:
        for group in _look_alikes(self._candidates(graph)):
            by_contents: dict[str, list[Value]] = defaultdict(list)
            for value in group:
                assert value.tensor is not None
                by_contents[value.tensor.digest].append(value)
            for equal in by_contents.values():
                if len(equal) > 1:
                    _share(equal, graph, context)

    def _candidates(self, graph: Graph) -> Iterable[Value]:
        for scope in graph.all_graphs():
            for value in scope.initializers.values():
                if value.tensor is not None and not value.is_graph_input and value.tensor.nbytes >= self.min_bytes:
                    yield value


def _look_alikes(values: Iterable[Value]) -> list[list[Value]]:
    groups: dict[tuple[DType, tuple[int, ...]], list[Value]] = defaultdict(list)
    for value in values:
        assert value.tensor is not None
        groups[value.tensor.dtype, value.tensor.shape].append(value)
    return [group for group in groups.values() if len(group) > 1]


def _share(equal: list[Value], graph: Graph, context: PassContext) -> None:
    """Let one of several equal weights, one of the main graph if there is any, stand for the others."""
    # A graph's output has to keep its name, so it is the one to stay.
    equal = sorted(equal, key=lambda value: (value.graph is not graph, not value.is_graph_output))
    kept, *others = equal
    rewriter = context.rewriter(graph)
    for value in others:
        if value.is_graph_output:
            context.miss("a graph gives out both of two equal weights")
            continue
        user = next(iter(value.users), None)
        if user is None:
            continue
        if not context.allow(user):
            return
        if kept.graph is not graph:
            if kept.is_graph_output:
                return
            kept = rewriter.move_initializer(kept, graph)
        assert value.tensor is not None
        saved = value.tensor.nbytes
        rewriter.replace_uses(value, kept)
        context.rewriter(value.graph).remove_initializer(value)
        context.count("weights")
        context.count("bytes", saved)
