"""Elimination of dead code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx.defs

from graphopt.ir import Graph, Model, Node
from graphopt.ir.model import FunctionKey
from graphopt.rewriting.passes import Fidelity, Pass, PassContext

_OPTIONAL = onnx.defs.OpSchema.FormalParameterOption.Optional


@dataclass(frozen=True)
class EliminateDead(Pass):
    """Remove nodes, initializers, optional outputs and functions that nothing uses, also in nested graphs.

    Graph inputs stay, with the default values that initializers give them: they are the model's signature.
    """

    name: ClassVar[str] = "eliminate-dead"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: Graph, context: PassContext) -> None:
        for node in _users_first(graph):
            if not any(value.has_uses for value in node.outputs):
                if not context.allow(node):
                    return
                context.rewriter(node.graph).remove(node)
                context.count("nodes")
            elif len(node.outputs) > 1:
                _omit_outputs(node, context)
        _remove_initializers(graph, context)
        _remove_functions(context)


def _users_first(graph: Graph) -> Iterator[Node]:
    """Yield every node after all that use it; nodes of a nested graph follow the node that contains it, if any."""
    stack = [reversed(graph.nodes)]
    while stack:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
            continue
        yield node
        if not node.removed:
            stack.extend(reversed(subgraph.nodes) for subgraph in node.subgraphs)


def _omit_outputs(node: Node, context: PassContext) -> None:
    """Omit optional outputs (a mask, indices, a final state) that nobody uses."""
    opsets = context.model.opsets
    if node.domain or not onnx.defs.has(node.op_type, opsets.get("", 1)):
        return
    formal = onnx.defs.get_schema(node.op_type, opsets.get("", 1)).outputs
    if node.op_type == "MaxPool":
        return  # ONNX Runtime's kernel without indices treats NaN differently from the one with them
    if node.op_type == "BatchNormalization" and node.attr("training_mode", 0):
        return  # in training all three outputs have to be there
    rewriter = context.rewriter(node.graph)
    for index in reversed(range(len(node.outputs))):
        optional = index < len(formal) and formal[index].option == _OPTIONAL
        unused = index < len(node.outputs) and node.outputs[index].name and not node.outputs[index].has_uses
        if optional and unused and context.allow(node):
            rewriter.omit_output(node, index)
            context.count("outputs")


def _remove_initializers(graph: Graph, context: PassContext) -> None:
    for scope in graph.all_graphs():
        rewriter = context.rewriter(scope)
        for value in tuple(scope.initializers.values()):
            if not value.has_uses and not value.is_graph_input:
                rewriter.remove_initializer(value)
                context.count("initializers")


def _remove_functions(context: PassContext) -> None:
    model = context.model
    used = _reachable_functions(model)
    rewriter = context.rewriter(model.graph)
    for key in tuple(model.functions):
        if key not in used:
            rewriter.remove_function(key)
            context.count("functions")


def _reachable_functions(model: Model) -> set[FunctionKey]:
    used: set[FunctionKey] = set()
    graphs = [model.graph]
    while graphs:
        for node in graphs.pop().all_nodes():
            key = (node.domain, node.op_type, node.overload)
            if key in model.functions and key not in used:
                used.add(key)
                graphs.append(model.functions[key].graph)
    return used
