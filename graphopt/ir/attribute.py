"""Node attributes: a value together with the kind that ONNX gives it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import numpy as np

from .tensor import Tensor


class AttributeKind(enum.IntEnum):
    """The type of an attribute; the numbers are those of `onnx.AttributeProto.AttributeType`."""

    FLOAT = 1
    INT = 2
    STRING = 3
    TENSOR = 4
    GRAPH = 5
    FLOATS = 6
    INTS = 7
    STRINGS = 8
    TENSORS = 9
    GRAPHS = 10
    SPARSE_TENSOR = 11
    SPARSE_TENSORS = 12
    TYPE_PROTO = 13
    TYPE_PROTOS = 14


_SCALARS: tuple[tuple[type | tuple[type, ...], AttributeKind], ...] = (
    ((bool, int, np.integer), AttributeKind.INT),
    ((float, np.floating), AttributeKind.FLOAT),
    ((str, bytes), AttributeKind.STRING),
    (Tensor, AttributeKind.TENSOR),
)
_LISTS = {
    AttributeKind.INT: AttributeKind.INTS,
    AttributeKind.FLOAT: AttributeKind.FLOATS,
    AttributeKind.STRING: AttributeKind.STRINGS,
    AttributeKind.TENSOR: AttributeKind.TENSORS,
    AttributeKind.GRAPH: AttributeKind.GRAPHS,
}


@dataclass(frozen=True)
class Attribute:
    """An attribute of a node.

    `value` is an int, float, str (bytes if it is not UTF-8), Tensor, Graph, a tuple of one of these, or the serialized
    proto (bytes, or a tuple of bytes) of a sparse tensor or a type. In the body of a function, `ref` may name an
    attribute of the function to be used instead; `value` is then None.
    """

    kind: AttributeKind
    value: Any
    ref: str = ""

    @classmethod
    def of(cls, value: Any) -> Attribute:
        """Return the attribute for a plain Python value. Raises TypeError if its kind is ambiguous (an empty list)."""
        if isinstance(value, Attribute):
            return value
        if isinstance(value, np.ndarray):
            return cls(AttributeKind.TENSOR, Tensor.of(value))
        if isinstance(value, list | tuple):
            kinds = {_scalar_kind(item) for item in value}
            if kinds == {AttributeKind.INT, AttributeKind.FLOAT}:
                kinds = {AttributeKind.FLOAT}
            if len(kinds) != 1:
                raise TypeError(f"cannot tell the attribute kind of {value!r}: pass an Attribute")
            kind = kinds.pop()
            return cls(_LISTS[kind], tuple(_plain(kind, item) for item in value))
        kind = _scalar_kind(value)
        return cls(kind, _plain(kind, value))


def _scalar_kind(value: Any) -> AttributeKind:
    for types, kind in _SCALARS:
        if isinstance(value, types):
            return kind
    if hasattr(value, "nodes") and hasattr(value, "outputs"):  # a Graph, which this module must not import
        return AttributeKind.GRAPH
    raise TypeError(f"{type(value).__name__} cannot be a node attribute")


def _plain(kind: AttributeKind, value: Any) -> Any:
    if kind is AttributeKind.INT:
        return int(value)
    if kind is AttributeKind.FLOAT:
        return float(value)
    return value
