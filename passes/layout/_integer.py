"""Convolutions of integers as `graphopt::BlockedConvInteger`, and the conversions between integers and floats."""

from __future__ import annotations

import numpy as np

from graphopt.ir import DType, Node, Value
from graphopt.passes.layout import _elementwise
from graphopt.passes.layout._blocks import NOTHING, UNKNOWN, Layout, Plan, channels_of, is_image
from graphopt.passes.layout._conv import conv_attributes, groups_fit
from graphopt.rewriting.passes import Miss, Rewriter

NARROW = 4
"""The number of channels in a block of images with few channels: integer kernels sum four products at once."""

MOST_JOINED = 4
"""The number of groups that are joined at most: so much more is multiplied, which blocks make up for."""


def conv_integer(node: Node, layout: Layout) -> Plan | Miss:
    """A ConvInteger of uint8 data with constant int8 weights and without zero points."""
    data, weight = node.input(0), node.input(1)
    if data is None or weight is None or weight.constant is None:
        return Miss("the weight or the bias is computed")
    if data.dtype is not DType.UINT8 or weight.dtype is not DType.INT8 or any(node.inputs[2:]):
        return Miss("its element types have no kernel on blocked values")
    if not is_image(data):
        return Miss("channels or spatial sizes are not known")
    if not is_image(node.output):
        return UNKNOWN
    if 0 in weight.constant.shape:
        return Miss("the weight is empty")
    outputs, per_group = weight.constant.shape[:2]
    groups = node.attr("group", 1)
    joined = _joined_groups(groups, per_group, outputs, layout.block)
    if joined is None:
        return Miss("its groups have too few channels for blocks")
    if data not in layout and outputs * 2 <= layout.block:
        return Miss("its result would not fill half a block")
    attributes = conv_attributes(node, data, weight.constant.shape[2:], layout.block)
    attributes["group"] = groups // joined

    def make(rewriter: Rewriter) -> list[Value | None]:
        few = data not in layout and channels_of(data) <= NARROW < layout.block and groups == joined
        source = layout.narrow(data, NARROW, rewriter) if few else layout.blocked(data)(rewriter)
        type_ = layout.type_of(node.output)
        kernel = weight
        if joined > 1:
            assert weight.constant is not None
            kernel = rewriter.constant(_spread(weight.constant.numpy(), groups, joined), weight.name)
        return [layout.op(rewriter, "BlockedConvInteger", [source, kernel], attributes, type_)]

    return make


def _joined_groups(groups: int, per_group: int, outputs: int, block: int) -> int | None:
    """Return how many groups to compute as one, the fewest that fit blocks; None if these would be too many."""
    for joined in range(1, min(groups, MOST_JOINED) + 1):
        if groups % joined == 0 and groups_fit(groups // joined, per_group * joined, outputs, block):
            return joined
    return None


def _spread(weight: np.ndarray, groups: int, joined: int) -> np.ndarray:
    """Return the weight of a convolution of fewer groups that computes the same: zeros for channels of other groups."""
    outputs, per_group, *kernel = weight.shape
    result = np.zeros((outputs, joined, per_group, *kernel), weight.dtype)
    places = np.arange(outputs)
    result[places, places // (outputs // groups) % joined] = weight
    return result.reshape(outputs, joined * per_group, *kernel)


def quantize(node: Node, layout: Layout) -> Plan | Miss:
    """QuantizeLinear and DequantizeLinear with one scale: elementwise operators of one blocked value."""
    if node.inputs[0] not in layout:
        return NOTHING
    if any(value is not None and value.shape not in ((), (1,)) for value in node.inputs[1:]):
        return Miss("its scales are those of channels or blocks")
    return _elementwise.unary(node, layout)
