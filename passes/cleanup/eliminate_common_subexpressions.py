"""Elimination of common subexpressions."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Attribute, AttributeKind, Graph, Node, Tensor, Value
from graphopt.ir.facts import Trait, facts_of
from graphopt.passes.matching.facts import is_random
from graphopt.rewriting.passes import Fidelity, Pass, PassContext

_DOMAINS = ("", "ai.onnx.ml", "graphopt")  # others may contain operators that keep state or draw random numbers
_SMALL_BYTES = 1024


@dataclass(frozen=True)
class EliminateCommonSubexpressions(Pass):
    """Compute equal expressions once: same operator, attributes and inputs.

    Small constants are compared by their contents (`share-weights` handles large ones). A nested graph may use what an
    enclosing graph computed before it, never the other way round. Random operators are left alone.
    """

    name: ClassVar[str] = "eliminate-common-subexpressions"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: Graph, context: PassContext) -> None:
        for node, scope in _with_scopes(graph):
            key = _key(node, context)
            if key is None:
                continue
            first = scope.find(key)
            if first is None:
                scope.add(key, node)
            elif not _is_pinned(node, first):
                if not context.allow(node):
                    return
                context.rewriter(node.graph, node).replace(node, first.outputs)
                context.count("merged")


class _Scope:
    """The expressions computed so far that a node may use: those of its own graph and of the enclosing ones."""

    def __init__(self) -> None:
        self._levels: list[dict[Hashable, Node]] = []

    def enter(self) -> None:
        self._levels.append({})

    def leave(self) -> None:
        self._levels.pop()

    def find(self, key: Hashable) -> Node | None:
        return next((level[key] for level in self._levels if key in level), None)

    def add(self, key: Hashable, node: Node) -> None:
        self._levels[-1][key] = node


def _with_scopes(graph: Graph) -> Iterator[tuple[Node, _Scope]]:
    """Yield every node in order, each nested graph at the position of its node, with its scope."""
    scope = _Scope()
    stack: list[tuple[Iterator[Node], list[Graph]]] = [(iter(graph.nodes), [])]
    scope.enter()
    while stack:
        nodes, pending = stack[-1]
        if pending:
            stack.append((iter(pending.pop(0).nodes), []))
            scope.enter()
            continue
        node = next(nodes, None)
        if node is None:
            stack.pop()
            scope.leave()
            continue
        pending.extend(node.subgraphs)
        yield node, scope


def _key(node: Node, context: PassContext) -> Hashable:
    """Return what two nodes must agree on to compute the same; None if the node must stay."""
    if node.domain not in _DOMAINS or node.subgraphs or (not node.domain and is_random(node, context)):
        return None
    if (node.domain, node.op_type, node.overload) in context.model.functions:
        return None  # its body may draw random numbers; inline-functions makes it visible
    attributes = tuple(sorted((name, _attribute_key(a)) for name, a in node.attributes.items()))
    outputs = tuple(bool(value.name) for value in node.outputs)
    inputs: Hashable = tuple(_input_key(value) for value in node.inputs)
    if Trait.COMMUTATIVE in facts_of(node.op).traits and isinstance(inputs, tuple):
        inputs = frozenset(inputs)
    return node.op, attributes, inputs, outputs


def _input_key(value: Value | None) -> Hashable:
    if value is None:
        return None
    constant = value.constant
    return constant.digest if constant is not None and constant.nbytes <= _SMALL_BYTES else value


def _attribute_key(attribute: Attribute) -> tuple[int, str]:
    """Return the kind and the contents as text; repr distinguishes 0.0 from -0.0, and all NaNs are equal."""
    value = attribute.value
    if attribute.kind is AttributeKind.TENSOR:
        value = value.digest
    elif attribute.kind is AttributeKind.TENSORS:
        value = tuple(tensor.digest if isinstance(tensor, Tensor) else tensor for tensor in value)
    return int(attribute.kind), repr((attribute.ref, value))


def _is_pinned(node: Node, first: Node) -> bool:
    """Return whether merging would only replace a node by an Identity that is no cheaper."""
    if node.op_type not in ("Identity", "Constant"):
        return False
    return any(value.is_graph_output for value in node.outputs)
