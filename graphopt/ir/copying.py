"""Copies of graphs and models. Tensors are shared because they never change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from . import edit
from .attribute import Attribute, AttributeKind
from .frozen import write
from .graph import Graph
from .node import Node, Value

if TYPE_CHECKING:
    from .model import Function, Model

Rename = Callable[[str], str]


def copy_model(model: Model) -> Model:
    """An independent copy of a model."""
    copy = type(model)()
    edit.describe(copy, **{name: getattr(model, name) for name in _MODEL_FIELDS})
    copy._opsets.update(model._opsets)
    copy._names.update(model._names)
    copy_graph(model.graph, copy.graph, {})
    copy._functions.update((key, _copy_function(function, copy)) for key, function in model._functions.items())
    write(copy, "_version", model._version)
    return copy


_MODEL_FIELDS = (
    *("ir_version", "producer_name", "producer_version", "domain", "model_version"),
    *("doc_string", "metadata", "path", "training_info"),
)


def replace_contents(model: Model, source: Model) -> None:
    """Make the main graph, functions and imported opsets of `model` copies of those of `source`."""
    graph = model.graph
    for node in list(graph.all_nodes()):
        write(node, "_graph", None)
    graph._clear()
    copy_graph(source.graph, graph, {})
    write(model, "_functions", {key: _copy_function(function, model) for key, function in source._functions.items()})
    write(model, "_opsets", dict(source._opsets))
    edit.describe(model, ir_version=max(model.ir_version, source.ir_version))
    model._touch()


def _copy_function(function: Function, model: Model) -> Function:
    body = Graph(model)
    copy_graph(function.graph, body, {})
    return replace(function, graph=body)


def copy_graph(source: Graph, target: Graph, mapping: dict[Value, Value], rename: Rename = str) -> None:
    """Copy `source` into the empty graph `target`; `mapping` (old to new) is extended by the copied values.

    Values of outer scopes that are not in the mapping are captured as they are. `rename` returns the new names.
    """
    write(target, "name", source.name)
    edit.describe(
        target,
        doc_string=source.doc_string,
        metadata=source.metadata,
        quantization_annotations=source.quantization_annotations,
    )
    for value in source._inputs:
        _copy_value(value, target, mapping, rename)
    edit.set_graph_inputs(target, [mapping[value] for value in source._inputs])
    copy_contents(source, target, mapping, rename, None)
    edit.set_graph_outputs(target, [mapping.get(value, value) for value in source._outputs])


def copy_contents(
    source: Graph, target: Graph, mapping: dict[Value, Value], rename: Rename, before: Node | None
) -> list[Node]:
    """Copy the initializers and nodes of `source` into `target`, the nodes before `before`."""
    for value in source._initializers.values():
        if value not in mapping:
            _copy_value(value, target, mapping, rename)
        assert value.tensor is not None
        edit.set_tensor(mapping[value], value.tensor)
    # All outputs first, so that graphs whose nodes are out of order are copied correctly too.
    for node in source.nodes:
        for value in node._outputs:
            _copy_value(value, target, mapping, rename)
    return [_copy_node(node, target, mapping, rename, before) for node in source.nodes]


def _copy_value(value: Value, target: Graph, mapping: dict[Value, Value], rename: Rename) -> None:
    copy = edit.new_value(target, rename(value.name) if value.name else "", value.type)
    write(copy, "doc_string", value.doc_string)
    write(copy, "metadata", value.metadata)
    denoted = value._graph._denoted_types.get(value)
    if denoted is not None:
        target._denoted_types[copy] = denoted
    mapping[value] = copy


def _copy_node(node: Node, target: Graph, mapping: dict[Value, Value], rename: Rename, before: Node | None) -> Node:
    copy = Node(
        node.op_type,
        node.domain,
        rename(node.name) if node.name else "",
        overload=node.overload,
        origin=node.origin,
        doc_string=node.doc_string,
        metadata=node.metadata,
    )
    edit.insert_node(target, copy, before)
    edit.set_inputs(copy, [None if v is None else mapping.get(v, v) for v in node._inputs])
    edit.set_outputs(copy, [mapping[v] for v in node._outputs])
    for name, attribute in node._attributes.items():
        edit.set_attribute(copy, name, _copy_attribute(attribute, target, mapping, rename, copy))
    return copy


def _copy_attribute(
    attribute: Attribute, target: Graph, mapping: dict[Value, Value], rename: Rename, parent: Node
) -> Attribute:
    def nested(graph: Graph) -> Graph:
        copy = Graph(target.model, parent=parent)
        copy_graph(graph, copy, mapping, rename)
        return copy

    if attribute.value is None:
        return attribute
    if attribute.kind is AttributeKind.GRAPH:
        return replace(attribute, value=nested(attribute.value))
    if attribute.kind is AttributeKind.GRAPHS:
        return replace(attribute, value=tuple(nested(graph) for graph in attribute.value))
    return attribute


def bind_attributes(nodes: Iterable[Node], actual: Mapping[str, Attribute]) -> None:
    """Replace references to a function's attributes by the values of a call, in `nodes` and graphs nested in them.

    A reference to an attribute without a value and without a default is removed.
    """
    for top in nodes:
        inner = (n for graph in top.subgraphs for n in graph.all_nodes())
        for node in (top, *inner):
            for name, attribute in list(node._attributes.items()):
                if attribute.ref:
                    edit.set_attribute(node, name, actual.get(attribute.ref))
