"""Direct convolution of channel-blocked activations: N, C/v, spatial..., v, with v the lanes of a vector.

`pack_weight` lays a constant weight out in the order in which the loop nest (`direct.cpu`) reads it, and `direct` is
the definition. The first layer of a network, with few channels, reads N, C, spatial... in plain layout.

A tile of `columns` positions of a row by `vectors` blocks of output channels stays in registers over the whole
reduction (Georganas et al., "Anatomy of high-performance deep learning convolutions on SIMD architectures", arXiv
1808.05567). Where `columns` or `vectors` do not divide a row or the blocks, tiles of one less fill the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from graphopt.targets.tvm.kernels.common.computes import long, reduce_axis
from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.common.windows import read_inside
from graphopt.targets.tvm.kernels.direct.plan import DirectPlan, packed_depth, padded, tiles_of

KERNEL = "conv_direct"


def pack_weight(weight: np.ndarray, workload: ConvWorkload, plan: DirectPlan) -> np.ndarray:
    """Pack `weight` (O, I/groups, *kernel) as a flat array: tile by tile, in the order of the reduction.

    The order in a tile is: input channel block, taps, channel of the block, vector of the tile, lane. (Channel, taps,
    vector, lane if the data is not blocked.) With a `width`, that many channels follow in each lane. Lanes beyond the
    last output channel are zero, and so are the channels of a band that belong to other groups, and those that fill a
    block up to a multiple of `width`.
    """
    groups, lanes = workload.groups, workload.lanes
    taps = math.prod(workload.spec.kernel)
    whole = _banded(weight, workload) if workload.is_banded else weight
    grouped = whole.reshape(groups, workload.group_out, workload.group_in, taps)
    missing = workload.blocks * lanes - workload.group_out
    width, step = plan.dot(workload).width, workload.step
    depth = padded(workload.group_in, width)
    grouped = np.pad(grouped, [(0, 0), (0, missing), (0, depth - workload.group_in), (0, 0)])
    vectors = grouped.reshape(groups, workload.blocks, lanes, depth // width, width, taps)
    parts = []
    for group in vectors:
        for first, size, count in tiles_of(workload, plan.vectors):
            for tile in group[first : first + size * count].reshape(count, size, lanes, depth // width, width, taps):
                for start in range(0, depth // width, step // width):
                    # vector, lane, step, channel, tap -> tap, step, vector, lane, channel
                    parts.append(tile[:, :, start : start + step // width].transpose(4, 2, 0, 1, 3).ravel())
    return np.concatenate(parts)


def _banded(weight: np.ndarray, workload: ConvWorkload) -> np.ndarray:
    """Return `weight` (O, I/groups, *kernel) with its channels at their positions in the band of their output block."""
    outputs, inputs, *kernel = weight.shape
    whole = np.zeros((outputs, workload.group_in, *kernel), weight.dtype)
    for output in range(outputs):
        first, _ = workload.band(output // workload.lanes)
        start = output // (outputs // workload.spec.groups) * inputs - first * workload.lanes
        whole[output, start : start + inputs] = weight[output]
    return whole


def weight_index(
    workload: ConvWorkload,
    first: Any,
    size: Any,
    channel_block: Any,
    tap: Any,
    channel: Any,
    vector: Any,
    lane: Any,
    width: int = 1,
) -> Any:
    """Return where `pack_weight` put an element of the tile of `size` blocks from block `first` (over all groups).

    `width`: that of the plan's `Dot`.
    """
    taps = math.prod(workload.spec.kernel)
    here = width_of_block(workload, width, channel_block)
    place = channel_block * (workload.step * taps) + tap * here + channel
    row = ((place // width * size + vector) * workload.lanes + lane) * width + place % width
    return first * (packed_depth(workload, width) * workload.lanes) + row


def width_of_block(workload: ConvWorkload, width: int, channel_block: Any) -> Any:
    """Return the number of channels that the weights of a block of a group's input have: fewer for the last one."""
    count, rest = divmod(workload.group_in, workload.step)
    if rest == 0:
        return workload.step
    return tirx.Select(channel_block < count, long(workload.step), long(padded(rest, width)))


def direct(data: te.Tensor, weight: te.Tensor, workload: ConvWorkload, plan: DirectPlan) -> te.Tensor:
    """Define the convolution of blocked (or plain) `data` with a packed weight: N, O/v, *out_space, v.

    Several groups consist of whole blocks of channels, or read all input channels.
    """
    spec, lanes, geometry = workload.spec, workload.lanes, workload.geometry
    channel = reduce_axis(workload.group_in, "rc")
    taps = [reduce_axis(size, f"r{axis}") for axis, size in enumerate(spec.kernel)]
    step, width = workload.step, plan.dot(workload).width
    kind = workload.dtypes.accumulator

    def element(n: Any, block: Any, *index: Any) -> Any:
        *where, lane = index
        source = block // workload.blocks * workload.group_in + channel
        if workload.is_banded:  # beyond the end of a band that is not the widest, weights are zero
            source = tirx.min(workload.band(block)[0] * lanes + channel, long(spec.in_channels - 1))

        def read(places: Sequence[Any]) -> Any:
            return data(n, source // step, *places, source % step) if workload.blocked else data(n, source, *places)

        tap: Any = long(0)
        for axis, size in enumerate(spec.kernel):
            tap = tap * size + taps[axis]
        first, size = _tile_of(block, workload, plan)
        place = weight_index(workload, first, size, channel // step, tap, channel % step, block - first, lane, width)
        value = read_inside(read, geometry, where, taps, tirx.const(0, data.dtype))
        product = value.astype(kind) * weight(place).astype(kind)
        if workload.is_banded:  # zero times infinity is not zero
            inputs, outputs = spec.in_channels // spec.groups, spec.out_channels // spec.groups
            own = source // inputs == tirx.min(block * lanes + lane, long(spec.out_channels - 1)) // outputs
            product = tirx.Select(own, product, tirx.const(0, product.ty.dtype))
        return te.sum(product, axis=[channel, *taps])

    shape = (data.shape[0], workload.groups * workload.blocks, *geometry.out_space, lanes)
    return te.compute(
        [long(size) for size in shape],
        element,
        name=KERNEL,
        attrs={"kernel": KERNEL, "plan": [long(number) for number in (*plan.to_ints(), *workload.numbers())]},
    )


def _tile_of(block: Any, workload: ConvWorkload, plan: DirectPlan) -> tuple[Any, Any]:
    """Return the first block of the tile that contains `block`, and the tile's size."""
    start = block // workload.blocks * workload.blocks
    inner = block - start
    runs = tiles_of(workload, plan.vectors)
    position, size, _ = runs[-1]
    first: Any = position + (inner - position) // size * size
    width: Any = long(size)
    for position, size, count in reversed(runs[:-1]):
        here = inner < position + size * count
        first = tirx.Select(here, position + (inner - position) // size * size, first)
        width = tirx.Select(here, long(size), width)
    return start + first, width


def from_numbers(numbers: Sequence[int]) -> tuple[ConvWorkload, DirectPlan]:
    """Decode the numbers that `direct` wrote into the annotation of its block."""
    columns, vectors, bands, chunk, way, *rest = numbers
    return ConvWorkload.of(rest), DirectPlan(columns, vectors, bands, chunk, way)
