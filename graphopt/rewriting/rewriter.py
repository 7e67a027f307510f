"""The Rewriter: the only thing that changes a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from graphopt.ir import Attribute, Function, Graph, Model, Node, Tensor, Value, ValueType, edit
from graphopt.ir.copying import bind_attributes, copy_contents, replace_contents
from graphopt.ir.infer import infer_node, merge_types
from graphopt.ir.model import FunctionKey

from .naming import Heirs


class Rewriter:
    """Changes one graph, and the uses of its values in graphs nested in it.

    New nodes go before `anchor` (at the end without one) and inherit its origin. `touched` collects the nodes
    that a driver should look at again: those made, and those that read something else than before. What replaces a node
    or value takes over its name when that goes.
    """

    def __init__(self, graph: Graph, anchor: Node | None = None) -> None:
        self.graph = graph
        self.anchor = anchor
        self.touched: dict[Node, None] = {}
        self._heirs = Heirs()

    # -- making ---------------------------------------------------------------------------------------------

    def op(
        self,
        op_type: str,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        n_outputs: int = 1,
        types: Sequence[ValueType] | None = None,
        origin: Sequence[Node] = (),
        name: str = "",
        before: Node | None = None,
    ) -> Node:
        """A new node. Attributes that are None are left out; output types that are not given are inferred.

        `origin` lists the nodes that it stands for; it is called `name`, or like the first of them that goes. Raises
        ValueError if an input is out of scope.
        """
        before = before or self._live_anchor()
        sources = list(origin) or ([self.anchor] if self.anchor is not None else [])
        names = tuple(dict.fromkeys(name for node in sources for name in node.origin))
        hints = [name] if name else [node.name for node in sources if node.name] or [op_type]
        model = self.graph.model
        node = Node(op_type, domain, model.unique_name(hints[0]), origin=names)
        edit.insert_node(self.graph, node, before)
        for value in inputs:
            self._check_scope(value, self.graph)
        edit.set_inputs(node, inputs)
        stem = f"{node.name}_out"
        types = types or [None] * n_outputs
        outputs = [edit.new_value(self.graph, model.unique_name(stem), type_) for type_ in types]
        edit.set_outputs(node, outputs)
        for key, value in (attributes or {}).items():
            if value is not None:
                edit.set_attribute(node, key, Attribute.of(value))
        if any(value.type is None for value in outputs):
            infer_node(node)
        self.touched[node] = None
        self._heirs.add_node(node, hints)
        return node

    def constant(self, contents: np.ndarray | np.generic | Tensor | float | int | bool, name: str = "") -> Value:
        """A new initializer, called `name` once that is free."""
        tensor = contents if isinstance(contents, Tensor) else Tensor.of(contents)
        value = edit.new_value(self.graph, self.graph.model.unique_name(name or "constant"))
        edit.set_tensor(value, tensor)
        self._heirs.add_value(value, name)
        return value

    def inline(
        self,
        source: Graph,
        bindings: Mapping[Value, Value | None],
        *,
        attributes: Mapping[str, Attribute] | None = None,
        prefix: str = "",
        origin: Sequence[Node] = (),
        before: Node | None = None,
    ) -> list[Value | None]:
        """Copy the contents of a nested graph or function body into this graph; returns what its outputs became.

        `bindings` says what its inputs become; `attributes` what references to a function's attributes become. The
        copied nodes get the origin of `origin`, if given.
        """
        mapping: dict[Value, Any] = dict(bindings)
        unique = self.graph.model.unique_name
        nodes = copy_contents(
            source, self.graph, mapping, lambda name: unique(prefix + name), before or self._live_anchor()
        )
        if attributes is not None:
            bind_attributes(nodes, attributes)
        names = tuple(dict.fromkeys(name for node in origin for name in node.origin))
        for node, copied in zip(nodes, source.nodes):
            edit.describe(node, origin=names or node.origin)
            self.touched[node] = None
            self._heirs.add_node(node, [prefix + copied.name] if copied.name else [])
        return [mapping.get(value, value) for value in source.outputs]

    # -- rewiring -------------------------------------------------------------------------------------------

    def replace_uses(self, old: Value, new: Value) -> None:
        """Make everything that reads `old` read `new`: nodes, captures in nested graphs, graph outputs.

        A graph output keeps its name; where `new` cannot take that name (it is an input, an initializer, an output
        already, or of an outer graph) an Identity gives it. What was known of the type of `old` is known of `new`.
        """
        if new is old:
            return
        for use in old.uses:
            self._check_scope(new, use.node.graph)
        if new.tensor is None and not new.is_graph_input:
            edit.set_type(new, merge_types(new.type, old.type))
        for use in old.uses:
            edit.replace_input(use.node, use.index, new)
            self.touched[use.node] = None
        if old.is_graph_output:
            self._replace_output(old, new)
        else:
            self._heirs.replaced(old, new)

    def _replace_output(self, old: Value, new: Value) -> None:
        for graph in dict.fromkeys(old.output_of):
            if graph is old.graph:
                source = new if self._may_be_output(new, graph) else self._identity(new, graph)
                name = old.name
                edit.rename_value(old, graph.model.unique_name(name))
                edit.rename_value(source, name)
            else:  # a nested graph that gives the captured value out
                source = new
            edit.set_graph_outputs(graph, [source if v is old else v for v in graph.outputs])

    def _may_be_output(self, value: Value, graph: Graph) -> bool:
        return value.graph is graph and value.producer is not None and not value.is_graph_output

    def _identity(self, value: Value, graph: Graph) -> Value:
        origin = self.anchor.origin if self.anchor is not None else ()
        node = Node("Identity", name=graph.model.unique_name("Identity"), origin=origin)
        edit.insert_node(graph, node)
        edit.set_inputs(node, [value])
        edit.set_outputs(node, [edit.new_value(graph, graph.model.unique_name(value.name), value.type)])
        return node.output

    def replace(self, node: Node, values: Sequence[Value | None] | Value) -> None:
        """Put `values` in the place of a node's outputs, remove it, and then whatever fed only it.

        A value may be None for an output that nobody uses.
        """
        values = [values] if isinstance(values, Value) else values
        for old, new in zip(node.outputs, values, strict=True):
            if new is not None:
                self.replace_uses(old, new)
        self.remove_dead(node)

    def set_input(self, node: Node, index: int, value: Value | None) -> None:
        self._check_scope(value, node.graph)
        edit.replace_input(node, index, value)
        self.touched[node] = None

    def set_inputs(self, node: Node, inputs: Sequence[Value | None]) -> None:
        """Give a node other inputs, in any number."""
        for value in inputs:
            self._check_scope(value, node.graph)
        edit.set_inputs(node, inputs)
        self.touched[node] = None

    def set_attribute(self, node: Node, name: str, value: Any) -> None:
        """Set an attribute to a plain value or an Attribute; None takes it away."""
        edit.set_attribute(node, name, None if value is None else Attribute.of(value))
        self.touched[node] = None

    def omit_output(self, node: Node, index: int) -> None:
        """Leave out an optional output that nobody uses; trailing ones are dropped. Raises ValueError if it is used."""
        value = node.outputs[index]
        if value.has_uses:
            raise ValueError(f"output '{value.name}' of {node.label} is in use")
        edit.forget_value(value)
        outputs = list(node.outputs)
        outputs[index] = edit.new_value(node.graph, "")
        while len(outputs) > 1 and not outputs[-1].name:
            outputs.pop()
        edit.set_outputs(node, outputs)

    def set_type(self, value: Value, type_: ValueType) -> None:
        """Say what type a value has; the version rises only where it had another."""
        edit.set_type(value, type_)

    @contextmanager
    def lent_types(self) -> Iterator[Callable[[Value, ValueType], None]]:
        """Lend values other types while the context lasts: it gives a function of a value and a type.

        At the end each has its own type again, and the model's version is what it was: nothing was changed.
        """
        own: dict[Value, ValueType] = {}

        def lend(value: Value, type_: ValueType) -> None:
            own.setdefault(value, value.type)
            edit.lend_type(value, type_)

        try:
            yield lend
        finally:
            for value, type_ in own.items():
                edit.lend_type(value, type_)

    def set_tensor(self, value: Value, tensor: Tensor) -> None:
        """Give an initializer other contents."""
        edit.set_tensor(value, tensor)

    def rename(self, value: Value, name: str) -> None:
        edit.rename_value(value, name)

    def set_outputs(self, outputs: Sequence[Value]) -> None:
        """Give this graph other outputs."""
        edit.set_graph_outputs(self.graph, outputs)

    def set_graph_inputs(self, inputs: Sequence[Value]) -> None:
        """Give this graph other inputs, out of those that it has and initializers; what is left out must be unused."""
        gone = [value for value in self.graph.inputs if value not in set(inputs)]
        edit.set_graph_inputs(self.graph, inputs)
        for value in gone:
            if value.tensor is None:
                if value.has_uses:
                    raise ValueError(f"graph input '{value.name}' is in use")
                edit.forget_value(value)

    def move_initializer(self, value: Value, graph: Graph) -> Value:
        """Move an initializer out to an enclosing graph; returns it as it is known there."""
        assert value.tensor is not None
        moved = edit.new_value(graph, graph.model.unique_name(value.name))
        edit.set_tensor(moved, value.tensor)
        self.replace_uses(value, moved)
        self.remove_initializer(value)
        return moved

    # -- removing -------------------------------------------------------------------------------------------

    def remove(self, node: Node) -> None:
        """Remove a node. Raises ValueError if any of its outputs is still used."""
        used = [value.name for value in node.outputs if value.has_uses]
        if used:
            raise ValueError(f"{node.label} cannot be removed: {used} are in use")
        graph = node.graph
        nested = [inner for subgraph in node.subgraphs for inner in subgraph.all_nodes()]
        edit.detach_node(node)
        self.touched.pop(node, None)
        for value in node.outputs:
            self._heirs.value_gone(graph, value.name)
        for gone in (node, *nested):
            self._heirs.node_gone(gone.name, gone.op_type)

    def _forget(self, value: Value) -> None:
        edit.forget_value(value)
        self._heirs.value_gone(value.graph, value.name)

    def remove_dead(self, node: Node) -> int:
        """Remove a node if nobody uses it, then every producer and initializer that only it needed.

        Returns how many nodes went.
        """
        removed = 0
        worklist = [node]
        while worklist:
            candidate = worklist.pop()
            if candidate.removed or any(value.has_uses for value in candidate.outputs):
                continue
            reads = list(dict.fromkeys(_reads(candidate)))
            self.remove(candidate)
            removed += 1
            for value in reads:
                if value.has_uses:
                    continue
                if value.producer is not None and not value.producer.removed:
                    worklist.append(value.producer)
                elif value.tensor is not None and not value.is_graph_input:
                    self._forget(value)
        return removed

    def remove_initializer(self, value: Value) -> None:
        """Remove an initializer. Raises ValueError if it is used, or is a graph input too."""
        if value.has_uses or value.is_graph_input or value.tensor is None:
            raise ValueError(f"initializer '{value.name}' cannot be removed: it is in use, or no initializer")
        self._forget(value)

    # -- around the graph -----------------------------------------------------------------------------------

    def set_opset(self, domain: str, version: int) -> None:
        """Import an operator domain at a version; bodies of functions that import it, at the same."""
        model = self.graph.model
        model._opsets[domain] = version
        for key, function in model.functions.items():
            if domain in function.opsets:
                model._functions[key] = replace(function, opsets={**function.opsets, domain: version})
        self.graph.model._touch()

    def add_function(self, function: Function) -> None:
        """Define a function of the model. Raises ValueError if it has one of that name already."""
        model = self.graph.model
        if function.key in model.functions:
            raise ValueError(f"function {function.domain}::{function.name} is there already")
        model._functions[function.key] = function
        model._touch()

    def remove_function(self, key: FunctionKey) -> None:
        del self.graph.model._functions[key]
        self.graph.model._touch()

    def replace_model(self, source: Model) -> None:
        """Put the main graph, functions and opsets of another model in the place of this model's; copies are made."""
        replace_contents(self.graph.model, source)

    def _live_anchor(self) -> Node | None:
        return self.anchor if self.anchor is not None and not self.anchor.removed else None

    def _check_scope(self, value: Value | None, graph: Graph) -> None:
        if value is not None and value.graph is not graph and not value.graph.encloses(graph):
            raise ValueError(f"'{value.name}' is out of scope in graph '{graph.name}'")


def _reads(node: Node) -> Iterator[Value]:
    """What a node reads, captures of its nested graphs included."""
    yield from (value for value in node.inputs if value is not None)
    for subgraph in node.subgraphs:
        nested = dict.fromkeys(subgraph.all_graphs())
        for graph in nested:
            inner: Iterable[Value | None] = (v for n in graph.nodes for v in n.inputs)
            for value in (*inner, *graph.outputs):
                if value is not None and value.graph not in nested:
                    yield value
