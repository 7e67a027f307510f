"""Queries about values that patterns use: the number in a constant, and whether a result is used elsewhere."""

from __future__ import annotations

import math
from collections.abc import Collection

from graphopt.ir import DType, Node, Value

ESCAPES = "an intermediate result is used elsewhere or is an output"


def constant_shape(value: Value | None) -> tuple[int, ...] | None:
    """Return the shape of a constant without reading it; None if the value is not constant."""
    tensor = None if value is None else value.constant
    return None if tensor is None else tensor.shape


def number(value: Value | None) -> float | None:
    """The number in a constant of one element, whatever its rank; None if it is not such a constant."""
    tensor = None if value is None else value.constant
    if tensor is None or tensor.size != 1 or not (tensor.dtype.is_float or tensor.dtype.is_integer):
        return None
    return float(tensor.numpy().reshape(-1)[0])


def fits_beside(value: Value, other: Value) -> bool:
    """Return whether a one-element constant `value`, combined with `other`, leaves the shape of `other` as it is."""
    shape = constant_shape(value)
    if shape is None:
        return False
    return not shape or (other.rank is not None and len(shape) <= other.rank)


def number_beside(value: Value, other: Value) -> float | None:
    """The number in the one-element constant `value` if combining it with `other` keeps the shape of `other`."""
    return number(value) if fits_beside(value, other) else None


def close(number_: float | None, target: float, dtype: DType | None) -> bool:
    """Return whether a constant equals `target` within the precision of its float type."""
    if number_ is None or not math.isfinite(number_):
        return False
    return abs(number_ - target) <= tolerance(dtype) * max(abs(target), 1e-30)


def tolerance(dtype: DType | None) -> float:
    """Return the relative tolerance for a constant of this float type.

    A few units in the last place: exporters write float32 constants with 7 or 8 digits.
    """
    return {DType.FLOAT16: 2.0**-9, DType.BFLOAT16: 2.0**-7, DType.DOUBLE: 1e-14}.get(dtype or DType.FLOAT, 1e-6)


def escapes(nodes: Collection[Node], root: Node) -> bool:
    """Return whether a result of `nodes`, other than the root's, is used by anything but `nodes`.

    Fusing such a pattern would compute the shared part twice, and a result that the user asked for (a graph output, a
    capture by a nested graph) has to stay.
    """
    inside = set(nodes)
    for node in inside:
        if node is root:
            continue
        if node.graph is not root.graph:
            return True
        for output in node.outputs:
            if output.is_graph_output or any(use.node not in inside for use in output.uses):
                return True
    return False
