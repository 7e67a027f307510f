"""Elementwise operators on blocked operands that are broadcast against each other."""

from __future__ import annotations

import numpy as np

from graphopt.ir import Node, Value
from graphopt.ir.facts import Kind, Trait, operators
from graphopt.passes.layout._blocks import (
    NOTHING,
    UNKNOWN,
    Layout,
    Make,
    Plan,
    channels_of,
    existing,
    is_image,
    same_op,
)
from graphopt.rewriting.passes import Miss, Rewriter

_PREDICATES = operators(traits=Trait.PREDICATE)
UNARY = operators(Kind.UNARY) - _PREDICATES
"""Operators on one tensor of data; further inputs are scalars."""

BROADCAST = operators(Kind.BROADCAST) - _PREDICATES
"""Operators on tensors that are broadcast against each other."""


def unary(node: Node, layout: Layout) -> Plan | Miss:
    """An elementwise operator of one blocked value."""
    data = node.inputs[0]
    if data is None or data not in layout:
        return NOTHING
    if not is_image(node.output):
        return UNKNOWN
    # An omitted bound stays omitted: `same_op` is given makers, and None has none.
    rest = node.inputs[1:]

    def make(rewriter: Rewriter) -> list[Value | None]:
        made = rewriter.op(node.op_type, [layout[data], *rest], node.attributes, types=[layout.type_of(node.output)])
        return [made.output]

    return make


def same(node: Node, layout: Layout) -> Plan | Miss:
    """Identity, and Dropout in inference: the blocked value itself."""
    data = node.inputs[0]
    if data is None or data not in layout:
        return NOTHING
    if node.op_type == "Dropout":
        training = node.input(2)
        if training is not None and (training.constant is None or training.constant.item()):
            return Miss("it drops elements")
        if len(node.outputs) > 1 and node.outputs[1].has_uses:
            return Miss("the mask of what was dropped is used")
    return lambda rewriter: [layout[data], *[None] * (len(node.outputs) - 1)]


def broadcast(node: Node, layout: Layout) -> Plan | Miss:
    """An elementwise operator of several operands, at least one of which is blocked and has all channels."""
    if not any(value in layout for value in node.inputs):
        return NOTHING
    result = node.output
    if not is_image(result):
        return UNKNOWN
    if not any(value in layout and _is_whole(value, result) for value in node.inputs):
        return Miss("no blocked operand has the channels of the result")
    makers: list[Make] = []
    for value in node.inputs:
        maker = Miss("an operand is missing") if value is None else operand(value, result, layout)
        if isinstance(maker, Miss):
            return maker
        makers.append(maker)
    return same_op(node, makers, layout)


def _is_whole(value: Value | None, result: Value) -> bool:
    """Return whether a value has the rank and the channels of the result."""
    return (
        is_image(value)
        and value is not None
        and value.rank == result.rank
        and channels_of(value) == channels_of(result)
    )


def operand(value: Value, result: Value, layout: Layout) -> Make | Miss:
    """Return an operand in a form that broadcasts against blocked ones, for a result of known plain shape."""
    if value in layout and _is_whole(value, result):
        return existing(layout[value])
    shape = value.shape
    if shape is None or result.rank is None:
        return Miss("the shape of an operand is not known")
    if all(size == 1 for size in shape):
        return existing(value)
    if value.dtype is not result.dtype:
        return Miss("an operand is of another element type than the result")
    full = (1,) * (result.rank - len(shape)) + shape
    if full[1] == 1:
        return _without_channels(value)
    if full[1] != channels_of(result):
        return Miss("the channels of an operand are not known")
    if value.constant is not None:
        return _blocked_constant(value, result.rank, layout)
    return layout.blocked(value) if is_image(value) and value.rank == result.rank else Miss("an operand lacks axes")


def _without_channels(value: Value) -> Make:
    """Return an operand that is the same for all channels, with an axis of one lane."""

    def make(rewriter: Rewriter) -> Value:
        constant = value.constant
        if constant is not None:
            return rewriter.constant(constant.numpy()[..., None], f"{value.name}_lane")
        assert value.rank is not None
        axes = rewriter.constant(np.array([value.rank], np.int64), f"{value.name}_axes")
        return rewriter.op("Unsqueeze", [value, axes]).output

    return make


def _blocked_constant(value: Value, rank: int, layout: Layout) -> Make:
    def make(rewriter: Rewriter) -> Value:
        assert value.constant is not None
        array = value.constant.numpy()
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        return rewriter.constant(layout.constant(array), f"{value.name}_blocked")

    return make


def batch_normalization(node: Node, layout: Layout) -> Plan | Miss:
    """BatchNormalization with constant statistics as a product and a sum with constants per channel."""
    data = node.inputs[0]
    if data is None or data not in layout:
        return NOTHING
    if node.attr("training_mode", 0):
        return Miss("it computes statistics")
    arrays = [None if value is None or value.constant is None else value.constant.numpy() for value in node.inputs[1:]]
    if any(array is None for array in arrays):
        return Miss("its statistics are computed")
    if not is_image(node.output):
        return UNKNOWN
    scale, bias, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    factor = scale / np.sqrt(variance + node.attr("epsilon", 1e-5))
    shape = (1, -1) + (1,) * (len(node.output.shape or ()) - 2)
    assert node.output.dtype is not None
    dtype = node.output.dtype.numpy

    def make(rewriter: Rewriter) -> list[Value | None]:
        type_ = layout.type_of(node.output)
        first = rewriter.constant(layout.constant(factor.astype(dtype).reshape(shape)), f"{node.name}_scale")
        second = (bias - mean * factor).astype(dtype).reshape(shape)
        product = rewriter.op("Mul", [layout[data], first], types=[type_]).output
        shift = rewriter.constant(layout.constant(second), f"{node.name}_shift")
        return [rewriter.op("Add", [product, shift], types=[type_]).output]

    return make
