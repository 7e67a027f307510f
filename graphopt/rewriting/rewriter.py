"""The Rewriter, the only way to change a graph."""

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

    New nodes go before `anchor` (or at the end) and inherit its origin. `touched` collects the nodes that a driver
    should visit again: new ones, and those whose inputs changed. A replacement takes over the name of a node or value
    once that is removed.
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
        """Create a node.

        Arguments:
            op_type, domain: the operator.
            inputs: its inputs; None for an omitted one.
            attributes: plain values or Attributes; those that are None are omitted.
            n_outputs: the number of outputs.
            types: of the outputs; by default they are inferred.
            origin: the nodes that it replaces; by default the anchor.
            name: of the node; by default it takes over that of the first node of `origin` that is removed.
            before: where it goes; by default before the anchor.

        Raises ValueError if an input is out of scope.
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
        """Create an initializer, which gets the name `name` once that is free."""
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
        """Copy the contents of a nested graph or function body into this graph; return the values of its outputs.

        `bindings` maps its inputs to values; `attributes` are the values for references to a function's attributes. The
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
        """Make everything that reads `old` read `new` instead: nodes, captures in nested graphs, graph outputs.

        A graph output keeps its name; if `new` cannot take that name (it is an input, an initializer, already an
        output, or from an outer graph), an Identity is added. The type of `old` is used to refine that of `new`.
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
            else:  # a nested graph that has the captured value as an output
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
        """Replace a node's outputs by `values`, remove it, and then everything that only it needed.

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
        """Replace the inputs of a node, in any number."""
        for value in inputs:
            self._check_scope(value, node.graph)
        edit.set_inputs(node, inputs)
        self.touched[node] = None

    def set_attribute(self, node: Node, name: str, value: Any) -> None:
        """Set an attribute to a plain value or an Attribute; None removes it."""
        edit.set_attribute(node, name, None if value is None else Attribute.of(value))
        self.touched[node] = None

    def omit_output(self, node: Node, index: int) -> None:
        """Omit an optional output that nobody uses; trailing ones are dropped. Raises ValueError if it is used."""
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
        """Set the type of a value; the version changes only if the type does."""
        edit.set_type(value, type_)

    @contextmanager
    def lent_types(self) -> Iterator[Callable[[Value, ValueType], None]]:
        """Give values other types temporarily, within a context; it yields a function of a value and a type.

        At the end, each value has its original type again, and the model's version is unchanged.
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
        """Replace the contents of an initializer."""
        edit.set_tensor(value, tensor)

    def rename(self, value: Value, name: str) -> None:
        edit.rename_value(value, name)

    def rename_node(self, node: Node, name: str) -> None:
        """Give a node another name, or none."""
        edit.rename_node(node, name)

    def set_outputs(self, outputs: Sequence[Value]) -> None:
        """Replace the outputs of this graph."""
        edit.set_graph_outputs(self.graph, outputs)

    def set_graph_inputs(self, inputs: Sequence[Value]) -> None:
        """Replace the inputs of this graph by some of its inputs and initializers; omitted inputs must be unused."""
        gone = [value for value in self.graph.inputs if value not in set(inputs)]
        edit.set_graph_inputs(self.graph, inputs)
        for value in gone:
            if value.tensor is None:
                if value.has_uses:
                    raise ValueError(f"graph input '{value.name}' is in use")
                edit.forget_value(value)

    def move_initializer(self, value: Value, graph: Graph) -> Value:
        """Move an initializer out to an enclosing graph; return the value there."""
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

        Return the number of removed nodes.
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
            raise ValueError(f"initializer '{value.name}' cannot be removed: it is in use, or not an initializer")
        self._forget(value)

    # -- around the graph -----------------------------------------------------------------------------------

    def set_opset(self, domain: str, version: int) -> None:
        """Import an operator domain at a version, also for the bodies of functions that import it."""
        model = self.graph.model
        model._opsets[domain] = version
        for key, function in model.functions.items():
            if domain in function.opsets:
                model._functions[key] = replace(function, opsets={**function.opsets, domain: version})
        self.graph.model._touch()

    def add_function(self, function: Function) -> None:
        """Add a function to the model. Raises ValueError if it already has one of that name."""
        model = self.graph.model
        if function.key in model.functions:
            raise ValueError(f"function {function.domain}::{function.name} exists already")
        model._functions[function.key] = function
        model._touch()

    def remove_function(self, key: FunctionKey) -> None:
        del self.graph.model._functions[key]
        self.graph.model._touch()

    def replace_model(self, source: Model) -> None:
        """Replace the main graph, functions and opsets by copies of those of another model."""
        replace_contents(self.graph.model, source)

    def _live_anchor(self) -> Node | None:
        return self.anchor if self.anchor is not None and not self.anchor.removed else None

    def _check_scope(self, value: Value | None, graph: Graph) -> None:
        if value is not None and value.graph is not graph and not value.graph.encloses(graph):
            raise ValueError(f"'{value.name}' is out of scope in graph '{graph.name}'")


def _reads(node: Node) -> Iterator[Value]:
    """Yield what a node reads, including captures of its nested graphs."""
    yield from (value for value in node.inputs if value is not None)
    for subgraph in node.subgraphs:
        nested = dict.fromkeys(subgraph.all_graphs())
        for graph in nested:
            inner: Iterable[Value | None] = (v for n in graph.nodes for v in n.inputs)
            for value in (*inner, *graph.outputs):
                if value is not None and value.graph not in nested:
                    yield value
