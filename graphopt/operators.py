"""Operators of domain `graphopt`, each defined by an ONNX function.

A pass that uses one adds its function to the model (`declare`), so that ONNX Runtime can run every graph; backends have
kernels for them. Blocked values are [N, ceil(C / block), D1...Dn, block]: channel c of a plain [N, C, D1...Dn] is in
block c // block at lane c % block. Lanes after the last channel may contain anything, and nothing reads them; the
functions here fill them with zeros.
"""

from __future__ import annotations

import onnx.parser

from .ir.read_proto import read_function
from .ir.verify import OWN_DOMAIN
from .rewriting.rewriter import Rewriter

DOMAIN = OWN_DOMAIN
VERSION = 1
OLDEST_OPSET = 18
"""The oldest opset of ONNX's own operators in which the functions are valid."""

_COMMON = """
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    two = Constant <value_ints: ints = [2]> ()
    last = Constant <value_ints: ints = [-1]> ()
    end = Constant <value_ints: ints = [9223372036854775807]> ()
"""

_BLOCK = """
    lanes = Constant <value_int: int = @block> ()
    block = Reshape (lanes, one)
"""

_TO_BLOCKED = """
    to_shape = Shape ({x})
    to_batch = Slice (to_shape, zero, one)
    to_channels = Slice (to_shape, one, two)
    to_sizes = Slice (to_shape, two, end)
    to_points = ReduceProd <keepdims: int = 1> (to_sizes)
    to_more = Add (to_channels, block)
    to_most = Sub (to_more, one)
    to_blocks = Div (to_most, block)
    to_lanes = Mul (to_blocks, block)
    to_rest = Sub (to_lanes, to_channels)
    to_flat_shape = Concat <axis: int = 0> (to_batch, to_channels, to_points)
    to_flat = Reshape <allowzero: int = 1> ({x}, to_flat_shape)
    to_pads = Concat <axis: int = 0> (zero, zero, zero, zero, to_rest, zero)
    to_full = Pad (to_flat, to_pads)
    to_split_shape = Concat <axis: int = 0> (to_batch, to_blocks, block, to_points)
    to_split = Reshape <allowzero: int = 1> (to_full, to_split_shape)
    to_turned = Transpose <perm: ints = [0, 1, 3, 2]> (to_split)
    to_blocked_shape = Concat <axis: int = 0> (to_batch, to_blocks, to_sizes, block)
    {y} = Reshape <allowzero: int = 1> (to_turned, to_blocked_shape)
"""

_FROM_BLOCKED = """
    from_shape = Shape (X)
    from_batch = Slice (from_shape, zero, one)
    from_blocks = Slice (from_shape, one, two)
    from_sizes = Slice (from_shape, two, last)
    from_lanes = Slice (from_shape, last, end)
    from_points = ReduceProd <keepdims: int = 1> (from_sizes)
    from_split_shape = Concat <axis: int = 0> (from_batch, from_blocks, from_points, from_lanes)
    from_split = Reshape <allowzero: int = 1> (X, from_split_shape)
    from_turned = Transpose <perm: ints = [0, 1, 3, 2]> (from_split)
    from_all = Mul (from_blocks, from_lanes)
    from_flat_shape = Concat <axis: int = 0> (from_batch, from_all, from_points)
    from_flat = Reshape <allowzero: int = 1> (from_turned, from_flat_shape)
    from_real = Slice (from_flat, zero, {channels}, one)
    from_plain_shape = Concat <axis: int = 0> (from_batch, {channels}, from_sizes)
    {y} = Reshape <allowzero: int = 1> (from_real, from_plain_shape)
"""

_CONV = """
    C = Conv <kernel_shape: ints = @kernel_shape, strides: ints = @strides, dilations: ints = @dilations,
              pads: ints = @pads, group: int = @group> ({x}, W, B)
"""

_CONV_INTEGER = """
    C = ConvInteger <kernel_shape: ints = @kernel_shape, strides: ints = @strides, dilations: ints = @dilations,
                     pads: ints = @pads, group: int = @group> (P, W)
"""

_CHANNELS_OF_WEIGHT = """
    weight_shape = Shape (W)
    per_group = Slice (weight_shape, one, two)
    groups = Constant <value_int: int = @group> ()
    channels = Mul (per_group, groups)
"""

_CONV_ATTRIBUTES = "block, kernel_shape, strides, dilations, pads, group"

_FUNCTIONS = {
    "ToBlocked": "<block> (X) => (Y) {" + _COMMON + _BLOCK + _TO_BLOCKED.format(x="X", y="Y") + "}",
    "FromBlocked": "<channels> (X) => (Y) {"
    + _COMMON
    + "number = Constant <value_int: int = @channels> () \n channels = Reshape (number, one)"
    + _FROM_BLOCKED.format(channels="channels", y="Y")
    + "}",
    "BlockedConv": f"<{_CONV_ATTRIBUTES}> (X, W, B) => (Y) {{"
    + _COMMON
    + _BLOCK
    + _CHANNELS_OF_WEIGHT
    + _FROM_BLOCKED.format(channels="channels", y="P")
    + _CONV.format(x="P")
    + _TO_BLOCKED.format(x="C", y="Y")
    + "}",
    "BlockedConvInteger": f"<{_CONV_ATTRIBUTES}> (X, W) => (Y) {{"
    + _COMMON
    + _BLOCK
    + _CHANNELS_OF_WEIGHT
    + _FROM_BLOCKED.format(channels="channels", y="P")
    + _CONV_INTEGER
    + _TO_BLOCKED.format(x="C", y="Y")
    + "}",
    "ConvToBlocked": f"<{_CONV_ATTRIBUTES}> (X, W, B) => (Y) {{"
    + _COMMON
    + _BLOCK
    + _CONV.format(x="X")
    + _TO_BLOCKED.format(x="C", y="Y")
    + "}",
    "BlockedLRN": "<alpha, beta, bias, size> (X) => (Y) {"
    + _COMMON
    + """
    shape = Shape (X)
    blocks = Slice (shape, one, two)
    block = Slice (shape, last, end)
    channels = Mul (blocks, block)
    """
    + _FROM_BLOCKED.format(channels="channels", y="P")
    + "L = LRN <alpha: float = @alpha, beta: float = @beta, bias: float = @bias, size: int = @size> (P)"
    + _TO_BLOCKED.format(x="L", y="Y")
    + "}",
}

OPERATORS = tuple(_FUNCTIONS)
"""Every operator of the domain.

- `ToBlocked(X) {block}`: from a plain [N, C, D1...Dn] to a blocked value.
- `FromBlocked(X) {channels}`: the first `channels` channels of a blocked value, plain.
- `BlockedConv(X, W, B?) {block, kernel_shape, strides, dilations, pads, group}`: ONNX's Conv of a blocked X with a
  plain [O, C / group, k1...kn] weight and an optional [O] bias, to a blocked value; every attribute must be given.
- `BlockedConvInteger(X, W) {block, kernel_shape, strides, dilations, pads, group}`: ONNX's ConvInteger of a blocked X
  (uint8) with a plain weight (int8), without zero points, to a blocked int32 value. The blocks of X may have another
  size than those of the result.
- `ConvToBlocked`: the same as `BlockedConv` with a plain X.
- `BlockedLRN(X) {alpha, beta, bias, size}`: ONNX's LRN of a blocked X whose channels fill their blocks; every attribute
  must be given.
"""


def declare(rewriter: Rewriter, op_type: str) -> None:
    """Add an operator's function to the model that is being rewritten, unless it is there already.

    Raises ValueError if the model's opset is older than `OLDEST_OPSET`.
    """
    model = rewriter.graph.model
    if (DOMAIN, op_type, "") in model.functions:
        return
    if model.opset < OLDEST_OPSET:
        raise ValueError(f"{DOMAIN}::{op_type} needs opset {OLDEST_OPSET}, the model has {model.opset}")
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {model.opset}]>'
    proto = onnx.parser.parse_function(f"{header} {op_type} {_FUNCTIONS[op_type]}")
    rewriter.set_opset(DOMAIN, VERSION)
    rewriter.add_function(read_function(proto, model))
