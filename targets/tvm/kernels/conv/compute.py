"""Direct convolution in plain layout (N, C, spatial...), 1, 2 or 3 spatial dimensions, groups, strides and dilations.

    plan = candidates(PlainConvWorkload(spec, 1, (56, 56)), machine)[0]     # None for a size that is not known
    packed = pack_weight(weight, plan)             # numpy, at compile time; weight is O, I/groups, *kernel
    out = conv(data, packed_tensor, plan)          # TE: N, O, *out_space; bias and activation are fused with it

Both methods keep a tile of accumulators in registers
over the whole reduction and never test bounds inside it: what a tile reads beyond the image comes from a padding
stage, which is left out where tiles fit exactly.

- "channels": vectors over output channels, `tile` positions of a row; data is broadcast. The result has to be
  transposed in registers, which pays for itself over a long reduction.
- "rows": vectors over positions of a row, `tile` output channels; weights are broadcast. Right for few channels, for
  groups and for depthwise convolution. Strided rows are split into phases by the padding stage, so that every tap
  reads contiguous memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from graphopt.targets.tvm.kernels.common.computes import long, reduce_axis, simplified
from graphopt.targets.tvm.kernels.common.conv_workload import ConvSpec
from graphopt.targets.tvm.kernels.conv.plan import ConvPlan


def pack_weight(weight: np.ndarray, plan: ConvPlan) -> np.ndarray:
    """`weight` (O, I/groups, *kernel) in the plan's packed shape; missing channels of the last block are zero."""
    spec = plan.spec
    grouped = weight.reshape(spec.groups, plan.group_out, plan.group_in, *plan.taps)
    missing = plan.blocks * plan.channel_block - plan.group_out
    grouped = np.pad(grouped, [(0, 0), (0, missing)] + [(0, 0)] * (grouped.ndim - 2))
    blocked = grouped.reshape(spec.groups, plan.blocks, plan.channel_block, plan.group_in, *plan.taps)
    return np.ascontiguousarray(np.moveaxis(blocked, 2, -1))


def conv(data: te.Tensor, weight: te.Tensor, plan: ConvPlan, out_space: Sequence[Any] | None = None) -> te.Tensor:
    """The convolution of `data` (N, C, *spatial) with a packed weight: N, O, *out_spatial.

    `out_space` names the spatial extents of the result where they follow from unknown ones.
    """
    spec, space = plan.spec, _sizes(data)
    sizes = [spec.out_size(i, size) for i, size in enumerate(space)] if out_space is None else out_space
    out_space = [simplified(size) for size in sizes]
    out_shape = [data.shape[0], spec.out_channels, *out_space]
    step = plan.tile * (plan.lanes if plan.method == "rows" else 1)
    lead = [] if plan.flat else out_space[:-1]
    width = simplified(math.prod(space[1:], start=space[0]) if plan.flat else out_space[-1])
    tiles = simplified((width + step - 1) // step)
    read = _reader(data, plan, lead, tiles * step)
    channels = [reduce_axis(plan.group_in, "rc")]
    taps = [reduce_axis(k, f"r{i}") for i, k in enumerate(plan.taps)]
    accumulator = plan.dtypes.accumulator

    def product(*index: Any) -> Any:
        n, block, *rest = index
        rows, tile, x, lane = rest[: len(lead)], rest[-3], rest[-2], rest[-1]
        if plan.method == "rows":
            x, lane = lane, x  # vectors run along the row: the channel comes first
        group = block // plan.blocks
        value = read(n, group * plan.group_in + channels[0], rows, tile * step + x, taps)
        factor = weight(group, block % plan.blocks, channels[0], *taps, lane)
        return te.sum(value.astype(accumulator) * factor.astype(accumulator), axis=[*channels, *taps])

    inner = (step, plan.lanes) if plan.method == "channels" else (plan.channel_block, step)
    anchor = te.compute(
        [long(size) for size in (data.shape[0], spec.groups * plan.blocks, *lead, tiles, *inner)],
        product,
        name="conv",
        attrs={"kernel": f"conv_{plan.method}", "tile": [plan.tile, plan.channel_tile, plan.lanes]},
    )

    def out(*index: Any) -> Any:
        n, channel, *where = index
        x = _flatten(where, space) if plan.flat else where[-1]
        # A group is a whole number of blocks wherever there is more than one group.
        block, lane, tile = channel // plan.channel_block, channel % plan.channel_block, x // step
        place = (x % step, lane) if plan.method == "channels" else (lane, x % step)
        return anchor(n, block, *(where[:-1] if lead else []), tile, *place).astype(plan.dtypes.result)

    return te.compute([long(size) for size in out_shape], out, name="conv_out")


def _sizes(data: te.Tensor) -> list[Any]:
    """The spatial extents of the input: ints where static."""
    return [int(size) if isinstance(size, tirx.IntImm) else size for size in data.shape[2:]]


def _flatten(where: Sequence[Any], space: Sequence[Any]) -> Any:
    total = where[0]
    for position, size in zip(where[1:], space[1:], strict=True):
        total = total * size + position
    return total


def _unflatten(position: Any, space: Sequence[Any]) -> list[Any]:
    where = []
    for size in reversed(list(space[1:])):
        where.append(position % size)
        position = position // size
    return [position, *reversed(where)]


def _reader(data: te.Tensor, plan: ConvPlan, lead: list[Any], columns: Any) -> Callable[..., Any]:
    """A function (n, channel, rows, x, taps) -> the input element that a tap of output column `x` reads."""
    spec = plan.spec
    space = _sizes(data)
    if plan.flat:
        if not plan.padded:
            return lambda n, c, _rows, x, _taps: data(n, c, *_unflatten(x, space))
        size = math.prod(space[1:], start=space[0])
        copy = te.compute(
            [simplified(extent) for extent in (data.shape[0], data.shape[1], columns)],
            lambda n, c, x: tirx.if_then_else(x < size, data(n, c, *_unflatten(x, space)), tirx.const(0, data.dtype)),
            name="pad",
        )
        return lambda n, c, _rows, x, _taps: copy(n, c, x)

    def source(axis: int, position: Any, taps: Sequence[Any]) -> Any:
        return position * spec.strides[axis] + taps[axis] * spec.dilations[axis]

    last = len(space) - 1
    if not plan.padded:
        return lambda n, c, rows, x, taps: data(
            n, c, *(source(i, row, taps) for i, row in enumerate(rows)), source(last, x, taps)
        )
    phases = spec.strides[-1] if plan.method == "rows" else 1
    stage = _pad_stage(data, spec, lead, columns, phases)

    def read(n: Any, c: Any, rows: Sequence[Any], x: Any, taps: Sequence[Any]) -> Any:
        where = [source(i, row, taps) for i, row in enumerate(rows)]
        if phases == 1:
            return stage(n, c, *where, source(last, x, taps))
        offset = taps[last] * spec.dilations[last]
        return stage(n, c, *where, offset % phases, x + offset // phases)

    return read


def _pad_stage(data: te.Tensor, spec: ConvSpec, lead: list[Any], columns: Any, phases: int) -> te.Tensor:
    """The padded input; with `phases` p, column x of phase f holds input column x * p + f."""
    space = _sizes(data)
    last = len(space) - 1
    reach = [(k - 1) * d for k, d in zip(spec.kernel, spec.dilations, strict=True)]
    rows = [(size - 1) * spec.strides[i] + reach[i] + 1 for i, size in enumerate(lead)]
    stride = spec.strides[last]
    if phases == 1:
        row_shape = [(columns - 1) * stride + reach[last] + 1]
    else:
        row_shape = [phases, columns + reach[last] // phases]

    def element(*index: Any) -> Any:
        n, c, *where = index
        if phases > 1:
            where = [*where[:-2], where[-1] * phases + where[-2]]
        conditions = []
        for i, size in enumerate(space):
            begin = spec.pads_begin[i]
            conditions += [where[i] >= begin, where[i] < size + begin]
        position = [place - spec.pads_begin[i] for i, place in enumerate(where)]
        return tirx.if_then_else(tirx.all(*conditions), data(n, c, *position), tirx.const(0, data.dtype))

    shape = [data.shape[0], data.shape[1], *rows, *row_shape]
    return te.compute([simplified(size) for size in shape], element, name="pad")
