"""Evaluation of constant parts of a graph by ONNX Runtime, many nodes in one session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from graphopt.errors import GraphOptError
from graphopt.ir import Model, Node, Value
from graphopt.ir.write_proto import write_node
from graphopt.proof.oracle import Reference

_LONGEST_REASON = 200
_IR_VERSION = 10  # supports every element type that ONNX Runtime does


def cone_of(values: Sequence[Value]) -> tuple[list[Node], list[Value]]:
    """Return the nodes that compute `values` from constants, producers first, and the constants that they read."""
    nodes: dict[Node, None] = {}
    constants: dict[Value, None] = {}
    stack: list[tuple[Node, Iterator[Value | None]]] = []
    for root in values:
        assert root.producer is not None
        if root.producer not in nodes:
            stack.append((root.producer, iter(root.producer.inputs)))
        while stack:
            node, pending = stack[-1]
            value = next(pending, node)
            if isinstance(value, Node):
                stack.pop()
                nodes[node] = None
            elif value is not None and value.constant is not None:
                constants[value] = None
            elif value is not None and value.producer is not None and value.producer not in nodes:
                stack.append((value.producer, iter(value.producer.inputs)))
    return list(nodes), list(constants)


def evaluate(values: Sequence[Value], model: Model) -> dict[Value, np.ndarray | str]:
    """Evaluate each of `values`, computed from constants alone: its contents, or why it cannot be evaluated.

    All are evaluated in one session. If that fails, they are divided into halves until the failing ones are isolated.
    """
    results: dict[Value, np.ndarray | str] = {}
    batches = [list(values)] if values else []
    while batches:
        batch = batches.pop()
        try:
            results.update(zip(batch, _run(batch, model)))
        except GraphOptError as error:
            if len(batch) == 1:
                results[batch[0]] = error.message.splitlines()[0][:_LONGEST_REASON]
            else:
                middle = len(batch) // 2
                batches += [batch[middle:], batch[:middle]]
    return results


def _run(values: Sequence[Value], model: Model) -> list[np.ndarray | str]:
    nodes, constants = cone_of(values)
    proto = onnx.ModelProto(ir_version=_IR_VERSION)
    proto.opset_import.add(version=model.opset)
    proto.graph.name = "constants"
    names = _Names()
    feeds: dict[str, np.ndarray] = {}
    for value in constants:
        tensor = value.constant
        assert tensor is not None
        info = proto.graph.input.add(name=names[value])
        info.type.tensor_type.elem_type = int(tensor.dtype)
        info.type.tensor_type.shape.SetInParent()
        for size in tensor.shape:
            info.type.tensor_type.shape.dim.add(dim_value=size)
        feeds[info.name] = tensor.numpy()
    for node in nodes:
        _add_node(node, proto, names)
    for value in values:
        proto.graph.output.add(name=names[value])  # ONNX Runtime infers the type
    with Reference(proto) as session:
        outputs = session.run(feeds)
    return [_checked(outputs[names[value]]) for value in values]


class _Names(dict[Value, str]):
    """A name for each value, because those of nested graphs may shadow each other."""

    def __missing__(self, value: Value) -> str:
        self[value] = f"v{len(self)}"
        return self[value]


def _add_node(node: Node, proto: onnx.ModelProto, names: _Names) -> None:
    copy = proto.graph.node.add()
    write_node(node, copy)
    del copy.input[:], copy.output[:]
    copy.input.extend("" if value is None else names[value] for value in node.inputs)
    copy.output.extend(names[value] if value.name else "" for value in node.outputs)


def _checked(output: object) -> np.ndarray | str:
    if not isinstance(output, np.ndarray) or output.dtype.kind in "USO":
        return "the result is not a tensor of numbers"
    return output
