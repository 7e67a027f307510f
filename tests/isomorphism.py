"""Isomorphism of graphs, up to the names of nodes, intermediate values and constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from graphopt.ir import Attribute, AttributeKind, Graph, Model, Node, Tensor, Value
from graphopt.ir.verify import find_schema


class Difference(AssertionError):
    """Two graphs differ; the message says where."""


def assert_same(got: Model, expected: Model, wildcards: frozenset[str] = frozenset()) -> None:
    """Raise `Difference` unless the main graphs agree.

    Inputs and outputs must have the same names, in the same order. Nodes, attributes (with defaults filled
    in), constants (initializers and Constant nodes alike) and the order of operands must agree. An
    initializer of `expected` that is named in `wildcards` agrees with any constant.
    """
    _Matcher(expected, wildcards).graphs(got.graph, expected.graph)
    got_nodes, expected_nodes = _operators(got.graph), _operators(expected.graph)
    if len(got_nodes) != len(expected_nodes):
        raise Difference(
            f"{len(got_nodes)} operators ({', '.join(n.op for n in got_nodes)}), expected {len(expected_nodes)} "
            f"({', '.join(n.op for n in expected_nodes)})"
        )


def _operators(graph: Graph) -> list[Node]:
    return [node for node in graph.all_nodes() if node.op != "Constant"]


class _Matcher:
    def __init__(self, expected: Model, wildcards: frozenset[str]) -> None:
        self.opsets = expected.opsets
        self.wildcards = wildcards
        self.values: dict[Value, Value] = {}
        self.nodes: dict[Node, Node] = {}

    def graphs(self, got: Graph, expected: Graph) -> None:
        main = got.parent is None
        for kind, left, right in (("inputs", got.inputs, expected.inputs), ("outputs", got.outputs, expected.outputs)):
            if len(left) != len(right) or (main and [v.name for v in left] != [v.name for v in right]):
                raise Difference(f"{kind} are {[v.name for v in left]}, expected {[v.name for v in right]}")
        for left_input, right_input in zip(got.inputs, expected.inputs):
            self.values[left_input] = right_input
        waiting = list(zip(got.outputs, expected.outputs))
        while waiting:
            waiting.extend(self.value(*waiting.pop()))

    def value(self, got: Value | None, expected: Value | None) -> list[tuple[Value | None, Value | None]]:
        """Match two values; returns the pairs that must match because these do."""
        if got is None or expected is None:
            if got is not expected:
                raise Difference(f"an input is {_name(got)}, expected {_name(expected)}")
            return []
        if got in self.values:
            if self.values[got] is not expected and not _both_equal(got, expected):
                raise Difference(f"'{got.name}' stands for both '{self.values[got].name}' and '{expected.name}'")
            return []
        if expected in self.values.values() and expected.constant is None:
            raise Difference(f"'{expected.name}' stands for both '{got.name}' and another value")
        self.values[got] = expected
        if expected.name in self.wildcards:
            if got.constant is None:
                raise Difference(f"'{got.name}' is not the constant that '{expected.name}' stands for")
            return []
        if got.constant is not None and expected.constant is not None:
            if not same_tensor(got.constant, expected.constant):
                raise Difference(f"constant '{got.name}' is {_show(got.constant)}, expected {_show(expected.constant)}")
            return []
        if got.producer is None or expected.producer is None:
            if got.name != expected.name or got.producer is not expected.producer:
                raise Difference(f"'{got.name}' is where '{expected.name}' is expected")
            return []
        if got.index != expected.index:
            raise Difference(f"'{got.name}' is output {got.index}, expected {expected.index}")
        return self.node(got.producer, expected.producer)

    def node(self, got: Node, expected: Node) -> list[tuple[Value | None, Value | None]]:
        if got in self.nodes:
            return []
        self.nodes[got] = expected
        if got.op != expected.op:
            raise Difference(f"{got.label} is where {expected.label} is expected")
        if len(got.inputs) != len(expected.inputs):
            raise Difference(f"{got.label} has {len(got.inputs)} inputs, expected {len(expected.inputs)}")
        left, right = self._attributes(got), self._attributes(expected)
        if left.keys() != right.keys():
            raise Difference(f"{got.label} has attributes {sorted(left)}, expected {sorted(right)}")
        for name, value in left.items():
            self.attribute(f"{got.label}, {name}", value, right[name])
        return list(zip(got.inputs, expected.inputs))

    def _attributes(self, node: Node) -> dict[str, Any]:
        schema = find_schema(node.op_type, node.domain, self.opsets.get(node.domain, 0))
        values: dict[str, Any] = {}
        if schema is not None:
            for name, declared in schema.attributes.items():
                if declared.default_value is not None and declared.default_value.type:
                    default = onnx.helper.get_attribute_value(declared.default_value)
                    values[name] = default.decode() if isinstance(default, bytes) else default
        values.update({name: attribute.value for name, attribute in node.attributes.items()})
        return values

    def attribute(self, where: str, got: Any, expected: Any) -> None:
        if isinstance(got, Graph) and isinstance(expected, Graph):
            self.graphs(got, expected)
        elif isinstance(got, Tensor) and isinstance(expected, Tensor):
            if not same_tensor(got, expected):
                raise Difference(f"{where} is {_show(got)}, expected {_show(expected)}")
        elif isinstance(got, float) and isinstance(expected, float):
            if not np.isclose(got, expected, rtol=1e-5, atol=1e-12, equal_nan=True):
                raise Difference(f"{where} is {got}, expected {expected}")
        elif _tuple(got) != _tuple(expected):
            raise Difference(f"{where} is {got}, expected {expected}")


def _tuple(item: Any) -> Any:
    return tuple(item) if isinstance(item, list) else item


def _name(value: Value | None) -> str:
    return "omitted" if value is None else f"'{value.name}'"


def _show(tensor: Tensor) -> str:
    array = tensor.numpy()
    return f"{array.tolist()}" if array.size <= 16 else repr(tensor)


def _both_equal(got: Value, expected: Value) -> bool:
    return got.constant is not None and expected.constant is not None and same_tensor(got.constant, expected.constant)


def same_tensor(got: Tensor, expected: Tensor) -> bool:
    """Equal dtype and shape, and elements that are equal (floats: to 1e-5, since texts round them)."""
    if (got.dtype, got.shape) != (expected.dtype, expected.shape):
        return False
    if got.dtype.is_float:
        left, right = got.numpy().astype(np.float64), expected.numpy().astype(np.float64)
        return bool(np.allclose(left, right, rtol=1e-5, atol=1e-6, equal_nan=True))
    return bool(np.array_equal(got.numpy(), expected.numpy()))


__all__ = ["Attribute", "AttributeKind", "Difference", "assert_same", "same_tensor"]
