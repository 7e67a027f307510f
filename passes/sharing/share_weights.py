"""Sharing of equal weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import DType, Graph, Tensor, Value
from graphopt.rewriting.passes import Fidelity, Pass, PassContext

_HEAD = 64


@dataclass(frozen=True)
class ShareWeights(Pass):
    """Store equal weights once, also in nested graphs.

    Weights of nested graphs that are equal to each other move to the main graph, where all of them can use it. Weights
    that a caller may override, and those that a graph has as outputs under their own name, stay. Only tensors of equal
    type and shape are read and compared.

    min_bytes: smaller weights are left alone.
    """

    name: ClassVar[str] = "share-weights"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    min_bytes: int = 0

    def run(self, graph: Graph, context: PassContext) -> None:
        groups = [list(self._candidates(graph))]
        # From free questions to one that reads the whole tensor, which is asked only for those that are equal so far.
        for question in (_type, _head, _contents):
            groups = [part for group in groups for part in _split(group, question)]
        for equal in groups:
            _share(equal, graph, context)

    def _candidates(self, graph: Graph) -> Iterable[Value]:
        for scope in graph.all_graphs():
            for value in scope.initializers.values():
                if value.tensor is not None and not value.is_graph_input and value.tensor.nbytes >= self.min_bytes:
                    yield value


def _split(values: Iterable[Value], question: Callable[[Tensor], Hashable]) -> list[list[Value]]:
    """Group the values by the answer to a question; those with a unique answer are dropped."""
    groups: dict[Hashable, list[Value]] = defaultdict(list)
    for value in values:
        assert value.tensor is not None
        groups[question(value.tensor)].append(value)
    return [group for group in groups.values() if len(group) > 1]


def _type(tensor: Tensor) -> Hashable:
    return tensor.dtype, tensor.shape


def _head(tensor: Tensor) -> Hashable:
    """Return the first few elements, in which different weights usually differ."""
    if tensor.dtype is DType.STRING:
        return None
    return tensor.numpy().reshape(-1)[:_HEAD].tobytes()


def _contents(tensor: Tensor) -> Hashable:
    return tensor.digest


def _share(equal: list[Value], graph: Graph, context: PassContext) -> None:
    """Replace several equal weights by one of them, preferably one of the main graph."""
    # An output has to keep its name, so it is the one to stay.
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
