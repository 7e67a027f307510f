"""Short names, for files in which they take more room than they are worth."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph
from graphopt.rewriting.passes import Fidelity, Pass, PassContext

_SHORT = 3
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class ShortenNames(Pass):
    """Give all values short names but the model's inputs and outputs, and forget types that can be inferred again.

    Names that exporters make of a layer's whole path occur at every use, and take a twentieth of a small quantized
    model. Nodes of the original model keep theirs, so that reports still name layers as its author does.
    """

    name: ClassVar[str] = "shorten-names"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: Graph, context: PassContext) -> None:
        rewriter = context.rewriter(graph)
        taken = {value.name for scope in graph.all_graphs() for value in scope.values()}
        fresh = (name for name in _names() if name not in taken)
        for scope in graph.all_graphs():
            for value in list(scope.values()):
                if len(value.name) > _SHORT and not value.is_graph_input and not value.is_graph_output:
                    rewriter.rename(value, next(fresh))
                    context.count("values renamed")
        for node in graph.all_nodes():
            if node.name and not node.origin:
                rewriter.rename_node(node, "")
                context.count("names of nodes dropped")
            for value in node.outputs:
                if value.type is not None and not node.domain and not value.is_graph_output:
                    rewriter.set_type(value, None)


def _names() -> itertools.chain[str]:
    return itertools.chain.from_iterable(
        map("".join, itertools.product(_DIGITS, repeat=size)) for size in itertools.count(1)
    )
