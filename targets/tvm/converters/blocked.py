"""Operators of domain `graphopt` on channel-blocked values: layout changes."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm.converters.half import moved
from graphopt.targets.tvm.converters.tensors import where
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter


def _channels(data: Operand) -> int:
    channels = data.shape[1]
    if not isinstance(channels, int):
        raise Declined("the number of channels is not known")
    return channels


@converter("graphopt::ToBlocked")
def to_blocked(c: Call) -> Operand:
    return moved(c.ctx, c[0], lambda data: _to_blocked(c.ctx, data, int(c.attr("block"))))


def _to_blocked(ctx: Context, data: Operand, block: int) -> Operand:
    channels = _channels(data)
    sizes = [data.shape[0], -(-channels // block), *data.shape[2:], block]

    def convert(x: te.Tensor) -> te.Tensor:
        def element(n: Any, outer: Any, *rest: Any) -> tirx.Expr:
            channel = outer * block + rest[-1]
            value = x(n, channel, *rest[:-1])
            return value if channels % block == 0 else where(channel < channels, value, tirx.const(0, data.dtype))

        return define(sizes, element, name="to_blocked")

    return ctx.te(convert, data, name="to_blocked")


@converter("graphopt::FromBlocked")
def from_blocked(c: Call) -> Operand:
    return moved(c.ctx, c[0], lambda data: _from_blocked(c.ctx, data, int(c.attr("channels"))))


def _from_blocked(ctx: Context, data: Operand, channels: int) -> Operand:
    block = data.shape[-1]
    sizes = [data.shape[0], channels, *data.shape[2:-1]]

    def convert(x: te.Tensor) -> te.Tensor:
        return define(
            sizes,
            lambda n, channel, *i: x(n, tirx.indexdiv(channel, block), *i, tirx.indexmod(channel, block)),
            name="from_blocked",
        )

    return ctx.te(convert, data, name="from_blocked")
