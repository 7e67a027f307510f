"""The structural verifier: invariants of every model between any two passes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import onnx

from graphopt.errors import VerificationError

from .graph import Graph
from .model import Model
from .node import Node, Use, Value
from .types import TensorType

OWN_DOMAIN = "graphopt"
"""The domain of graphopt's own operators, which no runtime knows without their functions."""


RUNTIME_OPERATORS = frozenset(
    {"Affine", "Crop", "DynamicSlice", "ImageScaler", "ParametricSoftplus", "Scale", "ScaledTanh"}
    | {"MeanVarianceNormalization", "ThresholdedRelu"}
)
"""Formerly experimental operators, which ONNX removed or defined later but ONNX Runtime still runs."""


def verify(model: Model) -> None:
    """Check the structure of a model.

    Every input exists in scope and is produced before it is needed; uses and producers are consistent; names are
    unique; operators exist in the imported opsets, with a number of inputs and outputs that their schema allows;
    initializers have the type of their contents. Raises VerificationError, which lists the first few errors.
    """
    problems = []
    for problem in _problems(model):
        problems.append(problem)
        if len(problems) == 5:
            break
    if problems:
        raise VerificationError("; ".join(problems), where=model.name)


def _problems(model: Model) -> Iterator[str]:
    roots: list[tuple[Graph, Mapping[str, int]]] = [(model.graph, model.opsets)]
    roots += [(f.graph, f.opsets or model.opsets) for f in model.functions.values()]
    for root, opsets in roots:
        for graph in root.all_graphs():
            yield from _graph_problems(graph, opsets, model)


def _graph_problems(graph: Graph, opsets: Mapping[str, int], model: Model) -> Iterator[str]:
    if graph.model is not model:
        yield f"graph '{graph.name}' belongs to another model"
    yield from _value_problems(graph)
    produced: set[Value] = set()
    for node in graph.nodes:
        if node.graph is not graph:
            yield f"{node.label} refers to another graph as its own"
        for index, value in enumerate(node.inputs):
            if value is not None:
                if Use(node, index) not in value._uses:
                    yield f"'{value.name}' does not list its use by {node.label}"
                if not value.graph.encloses(graph):
                    yield f"{node.label} reads '{value.name}', which is out of scope"
        for value in graph.dependencies(node):
            if value.producer is not None and value not in produced:
                yield f"{node.label} needs '{value.name}' before it is produced"
        for index, value in enumerate(node.outputs):
            if value.producer is not node or value.index != index:
                yield f"'{value.name}' does not have {node.label} as its producer"
        produced.update(node.outputs)
        yield from _schema_problems(node, opsets, model)
    for value in graph.outputs:
        if not value.graph.encloses(graph):
            yield f"output '{value.name}' of graph '{graph.name}' is out of scope"
        elif value.graph is graph and value.producer is not None and value not in produced:
            yield f"output '{value.name}' is produced by a node that is not in the graph"


def _value_problems(graph: Graph) -> Iterator[str]:
    for name, value in graph._values.items():
        if value.name != name or value.graph is not graph:
            yield f"'{value.name}' is listed under the name '{name}'"
        if value.producer is None and not (value.is_graph_input or value.is_initializer):
            yield f"nothing produces '{name}'"
        elif value.producer is not None and (value.producer.removed or value.tensor is not None):
            yield f"'{name}' is produced by a removed node, or also has contents"
        tensor = value.tensor
        if tensor is not None and not value.is_graph_input and value.type != TensorType(tensor.dtype, tensor.shape):
            yield f"initializer '{name}' has type {value.type} but contains {tensor}"
        for use in value._uses:
            if use.node.removed or use.node.input(use.index) is not value:
                yield f"'{name}' lists a use by {use.node.label}, which does not exist"
    for value in graph.inputs:
        if graph.find(value.name) is not value:
            yield f"input '{value.name}' is not a value of its graph"
    names = [value.name for value in graph.outputs]
    if len(set(names)) != len(names):
        yield f"graph '{graph.name}' lists the same output twice"


def _schema_problems(node: Node, opsets: Mapping[str, int], model: Model) -> Iterator[str]:
    if (node.domain, node.op_type, node.overload) in model.functions:
        return
    version = opsets.get(node.domain)
    if version is None:
        if node.domain == "" or any(key[0] == node.domain for key in model.functions):
            yield f"{node.label}: the model imports no opset for domain '{node.domain or 'ai.onnx'}'"
        return
    if find_schema(node.op_type, node.domain, version) is None:
        if node.domain == "" and node.op_type not in RUNTIME_OPERATORS:
            yield f"{node.label}: opset {version} has no operator {node.op_type}"
        elif node.domain == OWN_DOMAIN:
            yield f"{node.label}: the model has no function that defines it"
        return
    signature = _signature(node.op_type, node.domain, version)
    if not signature.inputs[0] <= len(node.inputs) <= signature.inputs[1]:
        yield f"{node.label} has {len(node.inputs)} inputs, but must have {signature.inputs}"
    if not signature.outputs[0] <= len(node.outputs) <= signature.outputs[1]:
        yield f"{node.label} has {len(node.outputs)} outputs, but must have {signature.outputs}"
    missing = signature.required - node.attributes.keys()
    unknown = node.attributes.keys() - signature.attributes
    if missing or unknown:
        yield f"{node.label}: attributes missing {sorted(missing)}, unknown {sorted(unknown)}"


class _Signature(NamedTuple):
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    required: frozenset[str]
    attributes: frozenset[str]


@functools.cache
def _signature(op_type: str, domain: str, version: int) -> _Signature:
    """Return what the verifier needs of a schema; cached because reading a schema's attributes is slow."""
    schema = onnx.defs.get_schema(op_type, version, domain)
    attributes = schema.attributes
    return _Signature(
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        frozenset(name for name, attribute in attributes.items() if attribute.required),
        frozenset(attributes),
    )


@functools.cache
def find_schema(op_type: str, domain: str, version: int) -> onnx.defs.OpSchema | None:
    """Return the schema of an operator as of an opset version; None if ONNX does not define it."""
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
