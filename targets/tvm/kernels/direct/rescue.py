"""Sums over an output's own group, where a band of input blocks holds those of other groups too.

The weights of other groups are zero there, and zero times infinity is NaN: an infinity would reach groups that do not
read it. A tile whose sums are not all finite is computed again by this plain loop nest, one output after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.common.nest import Fused, serial, vectorized
from graphopt.targets.tvm.kernels.common.windows import read_inside
from graphopt.targets.tvm.kernels.direct.compute import weight_index

SCRATCH = 512
"""Elements of a buffer that LLVM leaves in memory."""


def store_own_groups(
    fused: Fused, workload: ConvWorkload, image: Any, blocks: tuple[Any, int], where: Sequence[Any]
) -> None:
    """Emit the outputs at a position for the blocks of a tile, given by the first of them and their number.

    All blocks of a tile read the band of the first one.
    """
    first, size = blocks
    where = [T.bind(index) for index in where]
    sums = T.alloc_buffer((max(SCRATCH, workload.lanes),), "float32")
    with serial(size) as vector:
        with serial(workload.lanes) as lane:
            T.buffer_store(sums, tirx.const(0, "float32"), [lane])
            _add_group(fused, workload, image, (first, size, vector, lane), where, sums)
        with vectorized(workload.lanes) as lane:
            fused.store([image, first + vector, *where, lane], sums[lane])


def _add_group(
    fused: Fused, workload: ConvWorkload, image: Any, output: tuple[Any, int, Any, Any], where: Sequence[Any], sums: Any
) -> None:
    """Emit the sum of one output channel, given by the first block of its tile, its size, the vector and the lane."""
    data, weight = fused.inputs
    spec, lanes = workload.spec, workload.lanes
    first, size, vector, lane = output
    inputs, outputs = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    number = T.min((first + vector) * lanes + lane, long(spec.out_channels - 1))
    begin = T.bind(number // outputs * inputs)
    with ExitStack() as stack:
        channel = begin + stack.enter_context(serial(inputs))
        taps = [stack.enter_context(serial(count)) for count in spec.kernel]
        tap: Any = long(0)
        for index, count in zip(taps, spec.kernel, strict=True):
            tap = tap * count + index
        place = channel - workload.band(first)[0] * lanes
        factor = weight[weight_index(workload, first, size, place // lanes, tap, place % lanes, vector, lane)]

        def product(at: Sequence[Any]) -> Any:
            return data[image, channel // lanes, *at, channel % lanes] * factor

        value = read_inside(product, workload.geometry, where, taps, tirx.const(0, "float32"))
        T.buffer_store(sums, sums[lane] + value, [lane])
