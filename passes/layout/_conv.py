"""Convolutions as `graphopt::BlockedConv` and `graphopt::ConvToBlocked`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir import DType, Node, Value
from graphopt.passes.layout._blocks import UNKNOWN, Layout, Plan, channels_of, is_image, sizes_of
from graphopt.passes.matching.windows import explicit_pads
from graphopt.rewriting.passes import Miss, Rewriter


def conv(node: Node, layout: Layout) -> Plan | Miss:
    """A Conv with static spatial sizes and constant weights: dense, depthwise, or with groups of enough channels."""
    data, weight, bias = node.input(0), node.input(1), node.input(2)
    if data is None or weight is None or weight.constant is None or (bias is not None and bias.constant is None):
        return Miss("the weight or the bias is computed")
    if data.dtype is not DType.FLOAT or weight.dtype is not data.dtype:
        return Miss("its element types have no kernel on blocked values")
    if not is_image(data):
        return Miss("channels or spatial sizes are not known")
    if not is_image(node.output):
        return UNKNOWN
    outputs, per_group, *kernel = weight.constant.shape
    groups = node.attr("group", 1)
    if 0 in weight.constant.shape:
        return Miss("the weight is empty")
    if not groups_fit(groups, per_group, outputs, layout.block):
        return Miss("its groups have too few channels for blocks")
    if data not in layout and outputs * 2 <= layout.block:
        return Miss("its result would not fill half a block")
    attributes = conv_attributes(node, data, kernel, layout.block)

    def make(rewriter: Rewriter) -> list[Value | None]:
        # Few channels would leave most of a block empty, so the kernel reads them in their plain layout.
        direct = data not in layout and groups == 1 and channels_of(data) < layout.block
        source = data if direct else layout.blocked(data)(rewriter)
        inputs = [source, weight] if bias is None else [source, weight, bias]
        op_type = "ConvToBlocked" if direct else "BlockedConv"
        return [layout.op(rewriter, op_type, inputs, attributes, layout.type_of(node.output))]

    return make


def conv_attributes(node: Node, data: Value, kernel: Sequence[int], block: int) -> dict[str, Any]:
    """Return the attributes of the blocked counterpart of a convolution, all of which must be given."""
    return {
        "block": block,
        "kernel_shape": list(kernel),
        "group": node.attr("group", 1),
        "strides": list(node.attr("strides") or [1] * len(kernel)),
        "dilations": list(node.attr("dilations") or [1] * len(kernel)),
        "pads": explicit_pads(node, sizes_of(data), kernel),
    }


def groups_fit(groups: int, per_group: int, outputs: int, block: int) -> bool:
    """Return whether the blocks that the groups of an output block read have at most twice the channels of a group."""
    if groups == 1 or (per_group == 1 and outputs == groups):
        return True
    if groups * per_group % block:
        return False
    each, read = outputs // groups, 0
    for first in range(0, outputs, block):
        last = min(first + block, outputs) - 1
        read += -(-(last // each + 1) * per_group // block) - first // each * per_group // block
    return read * block <= 2 * per_group * -(-outputs // block)
