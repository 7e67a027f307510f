"""Multiplication of the scales of QuantizeLinear into the constants before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import DType, Node, Value
from graphopt.passes.matching.match import NOTHING
from graphopt.passes.quantization._pairs import QUANTIZE, Mapping, dequantize, dequantized, mapping_of
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.values import number

_FIRST = frozenset({"Clip", "Div", "Identity", "LeakyRelu", "Neg", "PRelu", "Relu"})
"""Operators for which scaling the first operand (and the bounds of Clip) scales the result."""
_ALL = frozenset({"Add", "Max", "Mean", "Min", "Sub", "Sum"})
"""Operators for which scaling all operands scales the result."""
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean"})
_MOST_STEPS = 16
"""The length of the chains that are searched: what a kernel computes at once is shorter."""


@dataclass(frozen=True)
class _Match:
    node: Node
    mapping: Mapping
    is_free: bool
    """Whether constants before the node take the scale up, so that no multiplication is added."""


@dataclass(frozen=True)
class FoldScales(RewritePass):
    """Give each QuantizeLinear the scale 1 by multiplying into the constants before it.

    A sum of products that becomes an integer then needs one multiplication and no division, with residual sums of
    dequantized values and activation functions in between. Where no constant is found, one multiplication replaces the
    division, and the scales of channels become one; inputs of the model keep their scale. Results differ by rounding.
    """

    name: ClassVar[str] = "fold-scales"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = (QUANTIZE,)

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        mapping, data = mapping_of(node), node.inputs[0]
        if mapping is None or data is None or (mapping.is_uniform and mapping.scale == 1):
            return NOTHING
        if not mapping.is_uniform and (data.rank is None or np.ptp(mapping.zero) != 0):
            return Miss("channels have zero points of their own")
        if data.dtype is not DType.FLOAT or data.producer is None:
            return NOTHING  # inputs are quantized once, and pixels are often in the middle between two integers
        if (1 / mapping.scale.astype(np.float64)).max() > np.finfo(np.float32).max:
            return Miss("a scale is too small for its reciprocal")
        return _Match(node, mapping, mapping.is_uniform and _is_free(data, node, 0))

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        node, mapping = match.node, match.mapping
        data = node.inputs[0]
        assert data is not None
        factors = 1 / mapping.along(mapping.scale.astype(np.float64), data.rank or 0)
        value = _scaled(data, float(factors), rewriter) if match.is_free else _times(data, factors, rewriter)
        one = rewriter.constant(np.array(1, np.float32), f"{node.name}_scale")
        rest: Sequence[Value | None] = node.inputs[2:]
        if not mapping.is_uniform:
            zero = mapping.zero.reshape(-1)[0].astype(mapping.dtype.numpy)
            rest = [rewriter.constant(zero, f"{node.name}_zero_point")]
            rewriter.set_attribute(node, "axis", None)
        rewriter.set_inputs(node, [value, one, *rest])
        if data.producer is not None:
            rewriter.remove_dead(data.producer)


def _times(value: Value, factor: float | np.ndarray, rewriter: Rewriter) -> Value:
    if value.constant is not None:
        scaled = value.constant.numpy().astype(np.float64) * factor
        return rewriter.constant(scaled.astype(np.float32), value.name)
    constant = rewriter.constant(np.array(factor, np.float32), "reciprocal")
    return rewriter.op("Mul", [value, constant], types=[value.type]).output


def _operands(node: Node) -> list[int] | None:
    """Return the operands of a node that must be scaled to scale its result; None if it cannot be done like that."""
    if node.domain or len(node.outputs) > 1:
        return None
    if node.op in _ALL:
        return list(range(len(node.inputs)))
    if node.op in _POOLS:
        return [0]
    if node.op == "Clip":
        bounded = all(value is None or number(value) is not None for value in node.inputs[1:])
        return [0] if bounded else None
    if node.op in _FIRST:
        return [0]
    if node.op == "BatchNormalization":
        return [1, 2] if all(value is not None and value.constant is not None for value in node.inputs[1:3]) else None
    if node.op == "Mul":
        constants = [
            index for index, value in enumerate(node.inputs) if value is not None and value.constant is not None
        ]
        return constants[:1] or [0]
    return None


def _is_free(value: Value, reader: Node, depth: int) -> bool:
    """Return whether constants can scale a value that only `reader` reads."""
    if value.constant is not None:
        return value.dtype is DType.FLOAT
    if dequantized(value) is not None:
        return True
    node = value.producer
    if node is None or depth == _MOST_STEPS or value.sole_user is not reader or node.graph is not reader.graph:
        return False
    places = _operands(node)
    if places is None:
        return False
    operands = [node.inputs[place] for place in places]
    return all(operand is not None and _is_free(operand, node, depth + 1) for operand in operands)


def _scaled(value: Value, factor: float, rewriter: Rewriter) -> Value:
    """Return a value that `_is_free` times a factor, from new nodes; at most `_MOST_STEPS` deep."""
    if value.constant is not None:
        return _times(value, factor, rewriter)
    source = dequantized(value)
    if source is not None:
        mapping = source.mapping
        scale = (mapping.scale.astype(np.float64) * factor).astype(np.float32)
        scaled = Mapping(scale, mapping.zero, mapping.dtype, mapping.axis)
        return dequantize(rewriter, source.integers, scaled, origin=[source.node], types=[value.type])
    node = value.producer
    assert node is not None
    places = _operands(node)
    assert places is not None
    inputs = list(node.inputs)
    for place in places:
        operand = inputs[place]
        assert operand is not None
        inputs[place] = _scaled(operand, factor, rewriter)
    if node.op == "Clip":
        bounds = [None if bound is None else _times(bound, factor, rewriter) for bound in inputs[1:]]
        inputs = [inputs[0], *bounds]
    return rewriter.op(node.op_type, inputs, node.attributes, types=[value.type], origin=[node]).output
