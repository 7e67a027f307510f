"""Conversion from onnx.ModelProto to Model. Nothing that a valid model contains is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import MappingProxyType

import onnx

from graphopt.errors import ModelError

from . import edit
from .attribute import Attribute, AttributeKind
from .frozen import write
from .graph import Graph
from .implied import restore_types
from .model import Function, Model
from .node import ORIGIN, Node, Value
from .sparse import SparseReader
from .tensor import Tensor
from .tensor_proto import read_tensor
from .type_proto import is_denoted, read_type
from .verify import find_schema

_RUNTIME_DOMAINS = {"ai.onnx.ml": 5, "com.microsoft": 1, "ai.onnx.preview.training": 1}
"""Domains that ONNX Runtime knows without an import, with their versions."""

Tell = Callable[[str], object]


def read_model(
    proto: onnx.ModelProto, folder: Path | None = None, name: str = "model", tell: Tell = lambda note: None
) -> Model:
    """Return the model that `proto` describes.

    Sparse initializers and constants become dense.

    Arguments:
        proto: the model.
        folder: where its external data is.
        name: its name in messages.
        tell: is called with a sentence about everything that violates the specification but that ONNX Runtime accepts;
            it is interpreted as ONNX Runtime does.

    Raises ModelError if names do not resolve, sizes are inconsistent, or nodes form a cycle.
    """
    reader = _Reader(folder, name, tell)
    model = Model()
    edit.describe(
        model,
        ir_version=proto.ir_version,
        producer_name=proto.producer_name,
        producer_version=proto.producer_version,
        domain=proto.domain,
        model_version=proto.model_version,
        doc_string=proto.doc_string,
        metadata=_metadata(proto.metadata_props),
        training_info=tuple(info.SerializeToString() for info in proto.training_info),
    )
    model._opsets.update((_domain(entry.domain), entry.version) for entry in proto.opset_import)
    for function in proto.functions:
        if not _domain(function.domain) and onnx.defs.has(function.name):
            tell(f"function '{function.name}' has the name of an ONNX operator: calls refer to the operator")
            continue
        read = reader.function(function, model)
        if read.key in model._functions:
            raise ModelError(f"function {read.domain}::{read.name} is defined twice", where=name)
        model._functions[read.key] = read
    reader.graph(proto.graph, model.graph, overridable=proto.ir_version >= 4)
    for graph in (model.graph, *(f.graph for f in model._functions.values())):
        reader.sort(graph)
    restore_types(model.graph.all_graphs())
    for domain in dict.fromkeys(node.domain for node in model.graph.all_nodes()):
        if domain in _RUNTIME_DOMAINS and domain not in model.opsets:
            tell(f"no opset is imported for domain '{domain}': version {_RUNTIME_DOMAINS[domain]} is assumed")
            model._opsets[domain] = _RUNTIME_DOMAINS[domain]
    return model


def read_function(proto: onnx.FunctionProto, model: Model) -> Function:
    """Return the function that `proto` describes, for `model`, to which it is not added."""
    reader = _Reader(None, model.name, lambda note: None)
    function = reader.function(proto, model)
    reader.sort(function.graph)
    return function


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _metadata(props: Iterable[onnx.StringStringEntryProto]) -> MappingProxyType[str, str]:
    return MappingProxyType({entry.key: entry.value for entry in props})


def _read_origin(text: str) -> tuple[str, ...]:
    """Return the names of the user's nodes that a file stores for a node; none if the text is not graphopt's."""
    try:
        names = json.loads(text or "[]")
    except ValueError:
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


class _Reader:
    def __init__(self, folder: Path | None, name: str, tell: Tell) -> None:
        self.folder = folder
        self.name = name
        self.tell = tell
        self.sparse = SparseReader(folder)

    def graph(self, proto: onnx.GraphProto, graph: Graph, overridable: bool = True) -> None:
        """Fill `graph`. With `overridable` False, remove initializers from its inputs, as ONNX Runtime does.

        Before IR version 4, every initializer had to be listed as an input.
        """
        write(graph, "name", proto.name or "graph")
        edit.describe(
            graph,
            doc_string=proto.doc_string,
            metadata=_metadata(proto.metadata_props),
            quantization_annotations=tuple(a.SerializeToString() for a in proto.quantization_annotation),
        )
        initialized = {t.name for t in proto.initializer} | {t.values.name for t in proto.sparse_initializer}
        inputs = [i for i in proto.input if overridable or i.name not in initialized]
        edit.set_graph_inputs(graph, [self._declare(graph, info) for info in inputs])
        for tensor in proto.initializer:
            value = self._initializer(graph, tensor.name, read_tensor(tensor, self.folder, self.name))
            edit.describe(value, doc_string=tensor.doc_string, metadata=_metadata(tensor.metadata_props))
        for sparse in proto.sparse_initializer:
            self._initializer(graph, sparse.values.name, self.sparse.read(sparse, self.name))
        self._nodes(proto.node, graph)
        for info in (*proto.value_info, *proto.output):
            known = graph.find(info.name)
            if known is not None and known.tensor is None and not known.is_graph_input:
                self._describe(known, info)
        outputs = [self._resolve(graph, o.name, "the graph's outputs") for o in proto.output]
        if graph.parent is None:
            for value in {v for v in outputs if outputs.count(v) > 1}:
                self.tell(f"output '{value.name}' is listed more than once: using it once")
            outputs = list(dict.fromkeys(outputs))
        edit.set_graph_outputs(graph, outputs)

    def _initializer(self, graph: Graph, name: str, tensor: Tensor) -> Value:
        """Return a value with contents, possibly the default of a graph input, which keeps its type if possible."""
        value = graph.find(name) or self._new_value(graph, name)
        if value.tensor is not None:
            self.tell(f"initializer '{name}' occurs more than once: using the last one")
        declared = value.type
        edit.set_tensor(value, tensor)
        if value.is_graph_input and value.type is not declared:
            self.tell(f"input '{name}' is declared as {declared}, but its default is {value.type}: using the latter")
        return value

    def _nodes(self, protos: Iterable[onnx.NodeProto], graph: Graph) -> None:
        nodes = []
        for proto in protos:
            metadata = dict(_metadata(proto.metadata_props))
            origin = _read_origin(metadata.pop(ORIGIN, ""))
            node = Node(
                proto.op_type,
                proto.domain,
                proto.name,
                overload=proto.overload,
                origin=origin or (proto.name or next((o for o in proto.output if o), proto.op_type),),
                doc_string=proto.doc_string,
                metadata=metadata,
            )
            edit.insert_node(graph, node)
            edit.set_outputs(node, [self._new_value(graph, name) for name in proto.output])
            nodes.append((node, proto))
        for node, proto in nodes:
            inputs = [self._resolve(graph, name, node.label) if name else None for name in proto.input]
            edit.set_inputs(node, inputs)
            for attribute in proto.attribute:
                read = self._attribute(attribute, node)
                became_dense = attribute.sparse_tensor.dims and read.kind is AttributeKind.TENSOR
                edit.set_attribute(node, "value" if became_dense else attribute.name, read)

    def _new_value(self, graph: Graph, name: str) -> Value:
        if name and graph.find(name) is not None:
            raise ModelError(f"two nodes, inputs or initializers are named '{name}'", where=self.name)
        return edit.new_value(graph, name)

    def _declare(self, graph: Graph, info: onnx.ValueInfoProto) -> Value:
        value = self._new_value(graph, info.name)
        self._describe(value, info)
        return value

    def _describe(self, value: Value, info: onnx.ValueInfoProto) -> None:
        try:
            edit.set_type(value, read_type(info.type) or value.type)
        except ValueError:
            raise ModelError(f"'{info.name}' has an unknown element type", where=self.name) from None
        edit.describe(value, doc_string=info.doc_string, metadata=_metadata(info.metadata_props))
        if is_denoted(info.type):
            value._graph._denoted_types[value] = info.type.SerializeToString()

    def _resolve(self, graph: Graph, name: str, user: str) -> Value:
        scope: Graph | None = graph
        while scope is not None:
            value = scope.find(name)
            if value is not None:
                return value
            scope = scope.parent.graph if scope.parent is not None else None
        raise ModelError(
            f"{user} needs '{name}', which no node, input or initializer provides",
            where=self.name,
            remedy="the model is incomplete: export it again, or check it with onnx.checker",
        )

    def _attribute(self, proto: onnx.AttributeProto, node: Node) -> Attribute:
        kind = AttributeKind(proto.type) if proto.type else _guess_kind(proto)
        if proto.ref_attr_name:
            return Attribute(kind, None, proto.ref_attr_name)
        match kind:
            case AttributeKind.FLOAT:
                value: object = proto.f
            case AttributeKind.INT:
                value = proto.i
            case AttributeKind.STRING:
                value = _text(proto.s)
            case AttributeKind.FLOATS:
                value = tuple(proto.floats)
            case AttributeKind.INTS:
                value = tuple(proto.ints)
            case AttributeKind.STRINGS:
                value = tuple(_text(s) for s in proto.strings)
            case AttributeKind.TENSOR:
                value = read_tensor(proto.t, self.folder, f"{self.name}: {node.label}")
            case AttributeKind.TENSORS:
                value = tuple(read_tensor(t, self.folder, f"{self.name}: {node.label}") for t in proto.tensors)
            case AttributeKind.GRAPH:
                value = self._nested(proto.g, node)
            case AttributeKind.GRAPHS:
                value = tuple(self._nested(g, node) for g in proto.graphs)
            case AttributeKind.SPARSE_TENSOR if node.op_type == "Constant" and not node.domain:
                dense = self.sparse.read(proto.sparse_tensor, f"{self.name}: {node.label}")
                return Attribute(AttributeKind.TENSOR, dense)
            case AttributeKind.SPARSE_TENSOR:
                value = proto.sparse_tensor.SerializeToString()
            case AttributeKind.SPARSE_TENSORS:
                value = tuple(t.SerializeToString() for t in proto.sparse_tensors)
            case AttributeKind.TYPE_PROTO:
                value = proto.tp.SerializeToString()
            case AttributeKind.TYPE_PROTOS:
                value = tuple(t.SerializeToString() for t in proto.type_protos)
        return Attribute(kind, value)

    def _nested(self, proto: onnx.GraphProto, parent: Node) -> Graph:
        graph = Graph(parent.graph.model, parent=parent)
        self.graph(proto, graph)
        return graph

    def function(self, proto: onnx.FunctionProto, model: Model) -> Function:
        graph = Graph(model, proto.name)
        edit.set_graph_inputs(graph, [self._new_value(graph, name) for name in proto.input])
        self._nodes(proto.node, graph)
        for info in proto.value_info:
            known = graph.find(info.name)
            if known is not None:
                self._describe(known, info)
        edit.set_graph_outputs(graph, [self._resolve(graph, o, f"function {proto.name}") for o in proto.output])
        holder = Node(proto.name, proto.domain)
        return Function(
            _domain(proto.domain),
            proto.name,
            graph,
            proto.overload,
            tuple(proto.attribute),
            {a.name: self._attribute(a, holder) for a in proto.attribute_proto},
            self._opsets(proto, model),
            proto.doc_string,
            _metadata(proto.metadata_props),
        )

    def _opsets(self, proto: onnx.FunctionProto, model: Model) -> dict[str, int]:
        """Return the opsets of a body; if the model imports another version, that one applies, as in ONNX Runtime.

        ONNX requires that the operators are the same in both.
        """
        opsets = {_domain(entry.domain): entry.version for entry in proto.opset_import}
        for domain, version in opsets.items():
            opsets[domain] = wanted = model.opsets.get(domain, version)
            names = {node.op_type for node in proto.node if _domain(node.domain) == domain}
            if any(_since(name, domain, version) != _since(name, domain, wanted) for name in names):
                self.tell(
                    f"function {proto.domain}::{proto.name} is written for opset {version} of "
                    f"'{domain or 'ai.onnx'}', and the model for {wanted}: it is read as {wanted}"
                )
        return opsets

    def sort(self, root: Graph) -> None:
        """Sort nodes into dependency order if the file has them in another order; a cycle is an error."""
        for graph in root.all_graphs():
            if graph.is_sorted():
                continue
            order = graph.topological_order()
            if len(order) < len(graph.nodes):
                node = next(n for n in graph.nodes if n not in set(order))
                raise ModelError(
                    f"{node.label} depends on its own output",
                    where=self.name,
                    remedy="the graph has a cycle, which ONNX does not allow: export the model again",
                )
            edit.reorder(graph, order)


def _since(op_type: str, domain: str, version: int) -> int:
    """Return the version of an operator that an opset contains; 0 if ONNX does not know it."""
    schema = find_schema(op_type, domain, version)
    return 0 if schema is None else schema.since_version


def _guess_kind(proto: onnx.AttributeProto) -> AttributeKind:
    """Return the kind of an attribute from before kinds were stored (IR version 1)."""
    for name, kind in (("f", AttributeKind.FLOAT), ("i", AttributeKind.INT), ("s", AttributeKind.STRING)):
        if proto.HasField(name):
            return kind
    for name, kind in (("t", AttributeKind.TENSOR), ("g", AttributeKind.GRAPH)):
        if proto.HasField(name):
            return kind
    if proto.floats:
        return AttributeKind.FLOATS
    return AttributeKind.STRINGS if proto.strings else AttributeKind.INTS


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
