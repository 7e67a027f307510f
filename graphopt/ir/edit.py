"""The primitive edits of a graph. Only readers, copiers and the `Rewriter` may call them.

Each keeps all back references consistent (uses, producers, graph outputs, names) and increments the model's version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .attribute import Attribute, AttributeKind
from .frozen import Frozen, write
from .graph import Graph
from .node import Node, Use, Value
from .tensor import Tensor
from .types import TensorType, ValueType


def new_value(graph: Graph, name: str, type_: ValueType = None) -> Value:
    """Return a new value of `graph`; its name must be free in its scope (an empty name creates an omitted output)."""
    value = Value(graph, name, type_)
    if name:
        if name in graph._values:
            raise ValueError(f"graph '{graph.name}' already has a value named '{name}'")
        graph._values[name] = value
        graph.model._names.setdefault(name, 1)
    graph.model._touch()
    return value


def forget_value(value: Value) -> None:
    """Remove an unused value from its graph's scope."""
    graph = value._graph
    if value.name and graph._values.get(value.name) is value:
        del graph._values[value.name]
        graph._initializers.pop(value.name, None)
    graph._denoted_types.pop(value, None)
    graph.model._touch()


def rename_value(value: Value, name: str) -> None:
    graph = value._graph
    if name in graph._values:
        raise ValueError(f"graph '{graph.name}' already has a value named '{name}'")
    if value.name:
        del graph._values[value.name]
    if graph._initializers.pop(value.name, None) is not None:
        graph._initializers[name] = value
    write(value, "name", name)
    graph._values[name] = value
    graph.model._names.setdefault(name, 1)
    graph.model._touch()


def rename_node(node: Node, name: str) -> None:
    """Rename a node; the name may also occur in other graphs."""
    write(node, "name", name)
    node.graph.model._names.setdefault(name, 1)
    node.graph.model._touch()


def set_type(value: Value, type_: ValueType) -> None:
    """Set the type of a value; does nothing if it has that type already."""
    if value.type != type_:
        write(value, "type", type_)
        value._graph.model._touch()


def lend_type(value: Value, type_: ValueType) -> None:
    """Set a type that is restored before anybody else looks: the version does not change."""
    write(value, "type", type_)


def describe(item: Frozen, **fields: Any) -> None:
    """Set descriptive fields of a model, graph, node or value under construction: notes, origin, opaque messages.

    They do not affect what is computed, so the model's version does not change.
    """
    for name, content in fields.items():
        assert name in _DESCRIPTIVE, name
        write(item, name, content)


_DESCRIPTIVE = {
    *("doc_string", "metadata", "origin", "path", "training_info", "quantization_annotations"),
    *("ir_version", "producer_name", "producer_version", "domain", "model_version"),
}


def set_tensor(value: Value, tensor: Tensor) -> None:
    """Turn a value without a producer into an initializer, or replace the contents of an initializer.

    A graph input gets a default in this way; it keeps its type if that allows other sizes too.
    """
    write(value, "tensor", tensor)
    if not (value._is_input and _has_room(value.type, tensor)):
        write(value, "type", TensorType(tensor.dtype, tensor.shape))
    value._graph._initializers[value.name] = value
    value._graph.model._touch()


def _has_room(declared: ValueType, tensor: Tensor) -> bool:
    """Return whether the declared type admits these contents."""
    if not isinstance(declared, TensorType) or declared.dtype != tensor.dtype or declared.shape is None:
        return False
    fits = all(not isinstance(dim, int) or dim == size for dim, size in zip(declared.shape, tensor.shape))
    return fits and len(declared.shape) == len(tensor.shape)


def set_graph_inputs(graph: Graph, inputs: Sequence[Value]) -> None:
    for value in graph._inputs:
        write(value, "_is_input", False)
    write(graph, "_inputs", list(inputs))
    for value in graph._inputs:
        write(value, "_is_input", True)
    graph.model._touch()


def set_graph_outputs(graph: Graph, outputs: Sequence[Value]) -> None:
    for value in graph._outputs:
        value._output_of.remove(graph)
    write(graph, "_outputs", list(outputs))
    for value in graph._outputs:
        value._output_of.append(graph)
    graph.model._touch()


def insert_node(graph: Graph, node: Node, before: Node | None = None) -> None:
    write(node, "_graph", graph)
    graph.nodes._insert(node, before)
    if node.name:
        graph.model._names.setdefault(node.name, 1)
    graph.model._touch()


def set_inputs(node: Node, inputs: Sequence[Value | None]) -> None:
    for index, value in enumerate(node._inputs):
        if value is not None:
            del value._uses[Use(node, index)]
    write(node, "_inputs", tuple(inputs))
    for index, value in enumerate(node._inputs):
        if value is not None:
            value._uses[Use(node, index)] = None
    node.graph.model._touch()


def replace_input(node: Node, index: int, value: Value | None) -> None:
    """Change one input; the order of the other uses is kept."""
    old = node._inputs[index]
    if old is not None:
        del old._uses[Use(node, index)]
    write(node, "_inputs", (*node._inputs[:index], value, *node._inputs[index + 1 :]))
    if value is not None:
        value._uses[Use(node, index)] = None
    node.graph.model._touch()


def set_outputs(node: Node, outputs: Sequence[Value]) -> None:
    for value in node._outputs:
        write(value, "producer", None)
    write(node, "_outputs", tuple(outputs))
    for index, value in enumerate(node._outputs):
        write(value, "producer", node)
        write(value, "index", index)
    node.graph.model._touch()


def set_attribute(node: Node, name: str, attribute: Attribute | None) -> None:
    old = node._attributes.get(name)
    if old is not None and (attribute is None or attribute.value is not old.value):
        for subgraph in _graphs_in(old):
            release_graph(subgraph)
    if attribute is None:
        node._attributes.pop(name, None)
    else:
        node._attributes[name] = attribute
    write(node, "_subgraphs", tuple(g for a in node._attributes.values() for g in _graphs_in(a)))
    for subgraph in node._subgraphs:
        write(subgraph, "_parent", node)
    if node._subgraphs:
        node.graph._holders[node] = None
    else:
        node.graph._holders.pop(node, None)
    node.graph.model._touch()


def _graphs_in(attribute: Attribute) -> tuple[Graph, ...]:
    if attribute.kind is AttributeKind.GRAPH and attribute.value is not None:
        return (attribute.value,)
    if attribute.kind is AttributeKind.GRAPHS and attribute.value is not None:
        return tuple(attribute.value)
    return ()


def release_graph(graph: Graph) -> None:
    """Remove every use of a value by a graph that is about to be dropped, in particular captures from outer scopes."""
    for nested in graph.all_graphs():
        set_graph_outputs(nested, ())
        for inner in nested.nodes:
            set_inputs(inner, ())
            write(inner, "_graph", None)


def detach_node(node: Node) -> None:
    """Remove a node whose outputs are unused from its graph, and everything that its nested graphs captured."""
    graph = node.graph
    for subgraph in node._subgraphs:
        release_graph(subgraph)
    set_inputs(node, ())
    for value in node._outputs:
        forget_value(value)
    graph.nodes._remove(node)
    graph._holders.pop(node, None)
    write(node, "_graph", None)
    graph.model._touch()


def reorder(graph: Graph, order: Sequence[Node]) -> None:
    """Reorder the nodes of a graph; `order` must contain each of them once."""
    for node in order:
        graph.nodes._remove(node)
    for node in order:
        graph.nodes._insert(node, None)
    graph.model._touch()
