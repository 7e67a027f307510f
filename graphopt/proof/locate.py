"""Location of a difference between two versions of a model: the first differing value that both have by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from graphopt import io
from graphopt.ir import Model, Node, TensorType, Value

from .oracle import OracleError, Reference
from .tolerance import Output, Tolerance, compare

_MOST_VALUES = 4096
"""The limit on compared values, each of which becomes an output that ONNX Runtime keeps in memory."""


def first_difference(before: Model, after: Model, inputs: Mapping[str, Any], tolerance: Tolerance) -> str:
    """Describe the first value of `after`, in the order of its nodes, that differs from the same one in `before`.

    Return a sentence that names it and the user's node that produces it, or an empty text if none differs or the values
    cannot be computed (both models must load and run).
    """
    shared = [value for value in _intermediates(after) if _same_kind(before.graph.find(value.name), value)]
    names = [value.name for value in shared[:_MOST_VALUES]]
    try:
        left, right = _values(before, names, inputs), _values(after, names, inputs)
    except OracleError:
        return ""
    for value in shared[: len(names)]:
        comparison = compare(
            {**_SOMETHING, value.name: left[value.name]}, {**_SOMETHING, value.name: right[value.name]}, tolerance
        )
        if not comparison.ok and value.producer is not None:
            origin = ", ".join(_origins(value.producer, {v.name for v in shared})) or "none of the original nodes"
            return f"the first value that differs is '{value.name}', produced by {value.producer.label} (from {origin})"
    return ""


# Values without elements are accepted here.
_SOMETHING: dict[str, Output] = {" ": None}


def _origins(node: Node, shared: set[str]) -> list[str]:
    """Return the user's nodes behind a node and the new ones before it; values of shared names were correct so far."""
    found: dict[str, None] = {}
    waiting, seen = [node], {node}
    while waiting:
        current = waiting.pop()
        found.update(dict.fromkeys(current.origin))
        for value in current.inputs:
            producer = value.producer if value is not None and value.name not in shared else None
            if producer is not None and producer not in seen:
                seen.add(producer)
                waiting.append(producer)
    return list(found)


def _intermediates(model: Model) -> list[Value]:
    return [value for node in model.graph.nodes for value in node.outputs if value.name]


def _same_kind(old: Value | None, new: Value) -> bool:
    tensors = isinstance(new.type, TensorType) or new.type is None
    return old is not None and old.producer is not None and tensors


def _values(model: Model, names: list[str], inputs: Mapping[str, Any]) -> dict[str, Output]:
    proto = io.to_proto(model)
    present = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    with Reference(proto) as reference:
        return reference.run(inputs, names)
