"""Operators of domain `graphopt` on channel-blocked values: layout changes, and convolutions by their definition."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm.converters.call import Call
from graphopt.targets.tvm.converters.define import define
from graphopt.targets.tvm.converters.operand import Operand
from graphopt.targets.tvm.converters.registry import Declined, converter
from graphopt.targets.tvm.converters.tensors import all_of, where
from graphopt.targets.tvm.converters.window import int_expr, read_window


def _channels(data: Operand) -> int:
    channels = data.shape[1]
    if not isinstance(channels, int):
        raise Declined("the number of channels is not known")
    return channels


@converter("graphopt::ToBlocked")
def to_blocked(c: Call) -> Operand:
    data, block = c[0], int(c.attr("block"))
    channels = _channels(data)
    sizes = [data.shape[0], -(-channels // block), *data.shape[2:], block]

    def convert(x: te.Tensor) -> te.Tensor:
        def element(n: Any, outer: Any, *rest: Any) -> tirx.Expr:
            channel = outer * block + rest[-1]
            value = x(n, channel, *rest[:-1])
            return value if channels % block == 0 else where(channel < channels, value, tirx.const(0, data.dtype))

        return define(sizes, element, name="to_blocked")

    return c.ctx.te(convert, data, name="to_blocked")


@converter("graphopt::FromBlocked")
def from_blocked(c: Call) -> Operand:
    data, channels = c[0], int(c.attr("channels"))
    block = data.shape[-1]
    sizes = [data.shape[0], channels, *data.shape[2:-1]]

    def convert(x: te.Tensor) -> te.Tensor:
        return define(
            sizes,
            lambda n, channel, *i: x(n, tirx.indexdiv(channel, block), *i, tirx.indexmod(channel, block)),
            name="from_blocked",
        )

    return c.ctx.te(convert, data, name="from_blocked")


@converter("graphopt::BlockedConv")
def blocked_conv(c: Call) -> Operand:
    block = c[0].shape[-1]
    data = c[0]
    plain = Operand(data.dtype, [data.shape[0], int(c[1].shape[1]) * int(c.attr("group")), *data.shape[2:-1]])
    return define_blocked_conv(
        c, plain, lambda x, n, channel, *i: x(n, tirx.indexdiv(channel, block), *i, tirx.indexmod(channel, block))
    )


@converter("graphopt::ConvToBlocked")
def conv_to_blocked(c: Call) -> Operand:
    return define_blocked_conv(c, c[0], lambda x, *i: x(*i))


def define_blocked_conv(c: Call, plain: Operand, read: Any) -> Operand:
    """A convolution to a blocked value by its definition; `read` finds an element of the data by its plain index."""
    weight, bias, block, groups = c[1], c.input(2), int(c.attr("block")), int(c.attr("group"))
    outputs, depth, *kernel = (int(size) for size in weight.shape)
    window = read_window(c, plain, kernel)
    sizes = [plain.shape[0], -(-outputs // block), *window.output, block]

    def real(outer: Any, lane: Any) -> tirx.Expr:
        """The channel of a lane; lanes behind the last channel hold the last once more."""
        channel = outer * block + lane
        return channel if outputs % block == 0 else tirx.min(channel, int_expr(outputs - 1))

    def conv(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        channel = te.reduce_axis((0, depth), "rc")
        taps = [te.reduce_axis((0, k), f"r{i}") for i, k in enumerate(kernel)]

        def element(n: Any, outer: Any, *rest: Any) -> tirx.Expr:
            o = real(outer, rest[-1])
            inside, place = [], []
            for i, r, s, d, low, size in zip(
                rest[:-1], taps, window.strides, window.dilations, window.begin, plain.shape[2:]
            ):
                at = i * s + r * d - low
                inside += [at >= int_expr(0), at < int_expr(size)]
                place.append(at)
            first = tirx.indexdiv(o, outputs // groups) * depth if groups > 1 else 0
            value = where(all_of(inside), read(x, n, first + channel, *place), tirx.const(0, plain.dtype))
            return te.sum(value * w(o, channel, *taps), axis=[channel, *taps])

        return define(sizes, element, name="blocked_conv")

    result = c.ctx.te(conv, c[0], weight, name="blocked_conv")
    if bias is None:
        return result

    def add(x: te.Tensor, b: te.Tensor) -> te.Tensor:
        return define(sizes, lambda n, outer, *i: x(n, outer, *i) + b(real(outer, i[-1])), name="bias")

    return c.ctx.te(add, result, bias, name="bias")
