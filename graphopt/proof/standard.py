"""How far the results of one model may be from those of another way to compute it."""

from __future__ import annotations

import math

from graphopt.ir import DType, Model, Node, Value
from graphopt.ir.facts import Trait, facts_of

from .tolerance import Tolerance

_ROUNDING = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul"})
_STEPS = 5e-2
_FLOATS = (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16, DType.DOUBLE)
_NARROW = {kind: Tolerance().allowed("", kind) for kind in (DType.FLOAT16, DType.BFLOAT16)}
_INTEGERS = (DType.INT8, DType.UINT8)
_LEAST = 2
"""The number of steps that a result of integers may be away in any case."""
_SLACK = 1e-3
"""The part of a step by which floats are rounded beside it."""


def is_rounded(model: Model) -> bool:
    """Return whether a model rounds activations to integers while it runs."""
    return any(_rounds(node) for node in model.graph.all_nodes())


def _rounds(node: Node) -> bool:
    return (
        node.op_type in _ROUNDING
        or node.op_type.startswith(("QLinear", "QGemm"))
        or (node.op_type == "MatMulNBits" and node.attr("accuracy_level", 0) == 4)
    )


def standard_of(model: Model) -> Tolerance:
    """Return the tolerance for the results of a model: the default one, or a wider one if it `is_rounded`.

    A sum that lies in the middle between two integers, but for its rounding, may become either of them. Such a step in
    an early layer reaches everything after it, however exact the arithmetic is. Steps of many layers have both signs:
    a result that is an integer itself, or stands for one, may be as many steps away as the square root of the number of
    roundings in a row before it, and two in any case. Other results of such a model have no step of their own: sums of
    many values that may each be a step away have a wide tolerance relative to the largest, which holds for all.

    Values that are floats of 16 bits inside of a model may be computed in float32 as well, so its results have the
    tolerance of the narrowest: ten times the relative distance of neighbouring float16 numbers, five times that of
    bfloat16, which a hundred roundings in a row reach.
    """
    if is_rounded(model):
        return Tolerance(dict.fromkeys((*_FLOATS, *_INTEGERS), _STEPS), absolute=_steps(model))
    kinds = {value.dtype for value in model.graph.inputs} | {
        DType(node.attr("to")) for node in model.graph.all_nodes() if node.op == "Cast"
    }
    narrow = max((_NARROW[kind] for kind in kinds if kind in _NARROW), default=0.0)
    return Tolerance({DType.FLOAT: narrow}) if narrow else Tolerance()


def _steps(model: Model) -> dict[str, float]:
    """Return the absolute errors of the outputs whose step is known."""
    depths: dict[Value, int] = {}
    for node in model.graph.nodes:
        depth = max((depths.get(value, 0) for value in node.inputs if value is not None), default=0) + _rounds(node)
        depths.update(dict.fromkeys(node.outputs, depth))
    found = {}
    for output in model.graph.outputs:
        step = _step(output)
        if step is not None and depths.get(output, 0):
            found[output.name] = step * (max(math.sqrt(depths[output]), _LEAST) + _SLACK)
    return found


def _step(value: Value) -> float | None:
    """Return the difference between two neighbouring numbers that a value can have; None if it is not known."""
    while True:
        if value.dtype in _INTEGERS:
            return 1.0
        node = value.producer
        if node is None or not node.inputs or node.inputs[0] is None:
            return None
        if node.op == "DequantizeLinear":
            return _scale(node)
        if Trait.KEEPS_SCALE not in facts_of(node.op).traits:
            return None
        value = node.inputs[0]


def _scale(node: Node) -> float | None:
    """Return the scale of 8-bit integers that a DequantizeLinear reads; None if it is computed, or not a single one."""
    data, scale, zero = node.inputs[0], node.inputs[1], node.input(2)
    assert data is not None
    dtype = data.dtype or (None if zero is None else zero.dtype)
    if dtype not in _INTEGERS or scale is None or scale.constant is None or scale.constant.size != 1:
        return None
    return float(scale.constant.numpy().reshape(()))
