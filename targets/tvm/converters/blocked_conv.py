"""Convolutions of channel-blocked values: `graphopt::BlockedConv` and `graphopt::ConvToBlocked`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te

from graphopt.targets.tvm.converters.call import Call
from graphopt.targets.tvm.converters.context import Context
from graphopt.targets.tvm.converters.operand import Operand
from graphopt.targets.tvm.converters.registry import Declined, converter
from graphopt.targets.tvm.converters.tensors import elementwise
from graphopt.targets.tvm.kernels import depthwise, direct, winograd
from graphopt.targets.tvm.kernels.conv import OUT_EWISE_FUSABLE, ConvSpec
from graphopt.targets.tvm.kernels.direct import ConvWorkload
from graphopt.targets.tvm.machine import Machine

PLAIN = Machine(32, 16, 1)
"""Decides where no machine is given: any plan has the same meaning."""


@converter("graphopt::BlockedConv")
def blocked_conv(c: Call) -> Operand:
    return _convolution(c, blocked=True)


@converter("graphopt::ConvToBlocked")
def conv_to_blocked(c: Call) -> Operand:
    return _convolution(c, blocked=False)


def _convolution(c: Call, *, blocked: bool) -> Operand:
    work = _workload(c, blocked)
    weight, machine = c[1], c.ctx.machine or PLAIN
    spec = work.spec
    if blocked and spec.groups > 1 and spec.groups == spec.in_channels == spec.out_channels:
        narrow = depthwise.plan_depthwise(work, machine)
        result = _emit(
            c,
            (-(-spec.out_channels // work.lanes), work.geometry.taps, work.lanes),
            lambda array: depthwise.pack_weight(array, work),
            lambda x, w: depthwise.depthwise(x, w, work, narrow),
        )
    elif c.ctx.machine is not None and (fast := winograd.worth(work, machine)) is not None:
        result = _emit(
            c,
            winograd.packed_shape(work, fast),
            lambda array: winograd.pack_weight(array, work, fast),
            lambda x, w: winograd.winograd(x, w, work, fast),
        )
    else:
        plan = direct.plan_direct(work, machine)
        result = _emit(
            c,
            (direct.packed_size(work),),
            lambda array: direct.pack_weight(array, work, plan),
            lambda x, w: direct.direct(x, w, work, plan),
        )
    return _with_bias(c.ctx, result, c.input(2), work, weight.dtype)


def _workload(c: Call, blocked: bool) -> ConvWorkload:
    data, weight = c[0], c[1]
    space = data.shape[2:-1] if blocked else data.shape[2:]
    if not all(isinstance(size, int) for size in (*space, *weight.shape)) or not weight.is_constant:
        raise Declined("spatial sizes or the weight are not known")
    groups, rank = int(c.attr("group", 1)), len(space)
    pads = [int(pad) for pad in c.attr("pads") or [0] * (2 * rank)]
    spec = ConvSpec(
        out_channels=int(weight.shape[0]),
        in_channels=int(weight.shape[1]) * groups,
        kernel=tuple(int(size) for size in weight.shape[2:]),
        strides=tuple(int(s) for s in c.attr("strides") or [1] * rank),
        dilations=tuple(int(d) for d in c.attr("dilations") or [1] * rank),
        pads_begin=tuple(pads[:rank]),
        pads_end=tuple(pads[rank:]),
        groups=groups,
    )
    batch = data.shape[0] if isinstance(data.shape[0], int) else None
    return ConvWorkload(spec, batch, tuple(int(size) for size in space), int(c.attr("block")), blocked)


def _emit(
    c: Call,
    shape: tuple[int, ...],
    pack: Callable[[np.ndarray], np.ndarray],
    kernel: Callable[[te.Tensor, te.Tensor], te.Tensor],
) -> Operand:
    """The kernel on the data and the weight, packed once at compile time."""
    weight = c[1]

    def read() -> np.ndarray:
        array = weight.array
        assert array is not None
        return pack(array)

    packed = Operand(weight.dtype, shape, read=read, name=weight.name)
    name = "conv" + "x".join(str(size) for size in weight.shape[2:])
    return c.ctx.te(kernel, c[0], packed, name=name, attributes={"op_pattern": OUT_EWISE_FUSABLE})


def _with_bias(ctx: Context, data: Operand, bias: Operand | None, work: ConvWorkload, dtype: str) -> Operand:
    """The bias of each channel, added to the blocked result."""
    if bias is None:
        return data
    array = bias.array
    if array is None:
        raise Declined("the bias is not a constant")
    blocks = int(data.shape[1])
    padded = np.pad(array, (0, blocks * work.lanes - len(array)))
    shape = (1, blocks, *[1] * len(work.space), work.lanes)
    column = Operand(dtype, shape, read=lambda: padded.reshape(shape), name=bias.name)

    def add(x: Any, b: Any) -> Any:
        return x + b

    return elementwise(ctx, add, [data, column], dtype, "bias")
