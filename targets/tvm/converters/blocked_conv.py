"""Convolutions of channel-blocked values: `graphopt::BlockedConv`, `ConvToBlocked` and `BlockedConvInteger`."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from tvm import te

from graphopt.targets.tvm.converters.half import in_bfloat16
from graphopt.targets.tvm.converters.tensors import elementwise
from graphopt.targets.tvm.converters.widened import for_products, with_small
from graphopt.targets.tvm.kernels.common.computes import accumulator, long
from graphopt.targets.tvm.kernels.common.conv_workload import ConvSpec, ConvWorkload
from graphopt.targets.tvm.kernels.common.dot import BFLOAT16
from graphopt.targets.tvm.kernels.family import Dtypes
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.kernel import kernel
from graphopt.targets.tvm.lowering.operand import Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter

LARGEST_WEIGHT = 1e30
"""Of a `usual_weight`: transforms of kernels multiply by less than ten."""


@converter("graphopt::BlockedConv")
def blocked_conv(c: Call) -> Operand:
    return _convolution(c, blocked=True)


@converter("graphopt::ConvToBlocked")
def conv_to_blocked(c: Call) -> Operand:
    return _convolution(c, blocked=False)


@converter("graphopt::BlockedConvInteger")
def blocked_conv_integer(c: Call) -> Operand:
    return _convolution(c, blocked=True)


def _convolution(c: Call, *, blocked: bool) -> Operand:
    data, weight = c[0], c[1]
    work = _workload(c, data, weight, blocked)
    if not work.is_depthwise:
        data, weight = _factors(c.ctx, data, weight, work)
        work = dataclasses.replace(work, dtypes=with_small(c.ctx, _dtypes(data, weight), weight))
    if blocked and work.geometry.is_subsampled:
        data, work = _subsampled(c.ctx, data, work)
    chosen = c.ctx.plans.choose(work, weight.key) or c.ctx.plans.define(work)
    if chosen is None:
        raise Declined(f"no kernel convolves channel-blocked values of types {work.dtypes}")
    name = "conv" + "x".join(str(size) for size in c[1].shape[2:])
    result = kernel(c.ctx, work, chosen, data, weight, name=name)
    return _with_bias(c.ctx, result, c.input(2), work, c[1].dtype)


def _workload(c: Call, data: Operand, weight: Operand, blocked: bool) -> ConvWorkload:
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
    dtypes = _dtypes(data, weight)
    sizes, lanes = tuple(int(size) for size in space), int(c.attr("block"))
    # Integers and kernels of one tap are not transformed.
    usual = dtypes.accumulator == "int32" or max(spec.kernel) == 1 or _is_usual(weight)
    data_lanes = int(data.shape[-1]) if blocked and data.shape[-1] != lanes else None
    return ConvWorkload(spec, batch, sizes, lanes, blocked, dtypes, usual, data_lanes)


def _factors(ctx: Context, data: Operand, weight: Operand, work: ConvWorkload) -> tuple[Operand, Operand]:
    """Return the operands in the types in which the machine multiplies them fastest, without rounding."""
    narrow = in_bfloat16(ctx, data, weight) if work.blocked and not work.is_banded else None
    return narrow or for_products(ctx, data, weight)


def _dtypes(data: Operand, weight: Operand) -> Dtypes:
    if data.dtype == "bfloat16":
        return BFLOAT16
    kind = accumulator(data.dtype)
    return Dtypes(data.dtype, weight.dtype, kind, kind if kind == "int32" else data.dtype)


def _is_usual(weight: Operand) -> bool:
    """See `ConvWorkload`."""
    array = weight.array
    assert array is not None
    return bool(np.abs(array).max(initial=0) <= LARGEST_WEIGHT)


def _subsampled(ctx: Context, data: Operand, work: ConvWorkload) -> tuple[Operand, ConvWorkload]:
    """Copy the positions that a strided pointwise convolution reads, and return the equivalent one without strides.

    The copy costs little compared to the multiplications, which then run along one long contiguous row.
    """
    strides, space = work.spec.strides, work.geometry.out_space
    shape = [*data.shape[:2], *space, work.step]

    def element(x: te.Tensor, *index: Any) -> Any:
        n, block, *where, lane = index
        return x(n, block, *(place * stride for place, stride in zip(where, strides, strict=True)), lane)

    few = ctx.te(
        lambda x: te.compute([x.shape[0], *map(long, shape[1:])], lambda *index: element(x, *index), name="subsample"),
        data,
        name="subsample",
    )
    spec = dataclasses.replace(work.spec, strides=(1,) * len(space))
    return few, dataclasses.replace(work, spec=spec, space=space)


def _with_bias(ctx: Context, data: Operand, bias: Operand | None, work: ConvWorkload, dtype: str) -> Operand:
    """The bias of each channel, added to the blocked result."""
    if bias is None:
        return data
    if not bias.is_constant:
        raise Declined("the bias is not a constant")
    shape = (1, int(data.shape[1]), *[1] * len(work.space), work.lanes)

    def blocked(array: np.ndarray) -> np.ndarray:
        return np.pad(array, (0, shape[1] * work.lanes - len(array))).reshape(shape)

    column = bias.derived(shape, ("blocked", *shape), blocked)

    def add(x: Any, b: Any) -> Any:
        return x + b

    return elementwise(ctx, add, [data, column], dtype, "bias")
