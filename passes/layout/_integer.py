"""Convolutions of integers as `graphopt::BlockedConvInteger`, and the conversions between integers and floats."""

from __future__ import annotations

from graphopt.ir import DType, Node, Value
from graphopt.passes.layout import _elementwise
from graphopt.passes.layout._blocks import NOTHING, UNKNOWN, Layout, Plan, channels_of, is_image
from graphopt.passes.layout._conv import conv_attributes, groups_fit
from graphopt.rewriting.passes import Miss, Rewriter

NARROW = 4
"""The number of channels in a block of images with few channels: integer kernels sum four products at once."""


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
    if not groups_fit(node.attr("group", 1), per_group, outputs, layout.block):
        return Miss("its groups have too few channels for blocks")
    if data not in layout and outputs * 2 <= layout.block:
        return Miss("its result would not fill half a block")
    attributes = conv_attributes(node, data, weight.constant.shape[2:], layout.block)

    def make(rewriter: Rewriter) -> list[Value | None]:
        few = data not in layout and channels_of(data) <= NARROW < layout.block and node.attr("group", 1) == 1
        source = layout.narrow(data, NARROW, rewriter) if few else layout.blocked(data)(rewriter)
        type_ = layout.type_of(node.output)
        return [layout.op(rewriter, "BlockedConvInteger", [source, weight], attributes, type_)]

    return make


def quantize(node: Node, layout: Layout) -> Plan | Miss:
    """QuantizeLinear and DequantizeLinear with one scale: elementwise operators of one blocked value."""
    if node.inputs[0] not in layout:
        return NOTHING
    if any(value is not None and value.shape not in ((), (1,)) for value in node.inputs[1:]):
        return Miss("its scales are those of channels or blocks")
    return _elementwise.unary(node, layout)
