"""Inlining of model-local functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.ir import Attribute, Function, Graph, Node
from graphopt.operators import DOMAIN
from graphopt.rewriting.passes import Fidelity, Pass, PassContext


@dataclass(frozen=True)
class InlineFunctions(Pass):
    """Replace calls of the model's own functions by their bodies.

    Bodies are in the opset of the model: reading a file ensures that, as in ONNX Runtime.
    """

    name: ClassVar[str] = "inline-functions"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: Graph, context: PassContext) -> None:
        model = context.model
        if not model.functions:
            return
        # A worklist, because bodies may contain calls too. `_check_depth` has rejected recursive functions.
        for function in model.functions.values():
            self._check_depth(function, context)
        worklist = [node for node in graph.all_nodes() if _key(node) in model.functions]
        while worklist:
            node = worklist.pop()
            if node.domain == DOMAIN:  # backends have kernels for graphopt's own operators, which inlining would hide
                context.miss("it is an operator of graphopt's own", node)
                continue
            if not context.allow(node):
                return
            worklist.extend(self._inline(node, context))
        self._drop_unused(graph, context)

    def _inline(self, node: Node, context: PassContext) -> list[Node]:
        function = context.model.functions[_key(node)]
        body = function.graph
        bindings = {value: node.input(i) for i, value in enumerate(body.inputs)}
        actual: dict[str, Attribute] = {**function.defaults, **node.attributes}
        rewriter = context.rewriter(node.graph, node)
        for domain, version in function.opsets.items():
            if domain not in context.model.opsets:
                rewriter.set_opset(domain, version)
        outputs = rewriter.inline(
            body, bindings, attributes=actual, prefix=f"{node.name or node.op_type}/", origin=[node]
        )
        inner = [n for top in rewriter.touched for n in (top, *(m for g in top.subgraphs for m in g.all_nodes()))]
        rewriter.replace(node, outputs[: len(node.outputs)])
        context.count("calls inlined")
        return [n for n in inner if not n.removed and _key(n) in context.model.functions]

    def _check_depth(self, function: Function, context: PassContext) -> None:
        """Raise ModelError if a function calls itself, directly or indirectly."""
        from graphopt.errors import ModelError

        seen: set[Any] = set()
        worklist = [function]
        while worklist:
            for node in worklist.pop().graph.all_nodes():
                key = _key(node)
                if key == function.key:
                    raise ModelError(
                        f"function {function.domain}::{function.name} calls itself", where=context.model.name
                    )
                if key in context.model.functions and key not in seen:
                    seen.add(key)
                    worklist.append(context.model.functions[key])

    def _drop_unused(self, graph: Graph, context: PassContext) -> None:
        called = {_key(node) for node in graph.all_nodes()}
        rewriter = context.rewriter(graph)
        if called.isdisjoint(context.model.functions):
            for key in list(context.model.functions):
                rewriter.remove_function(key)


def _key(node: Node) -> tuple[str, str, str]:
    return node.domain, node.op_type, node.overload
