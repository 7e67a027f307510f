"""Depthwise convolution of channel-blocked activations: each channel by its own filter, a vector of them at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common import nest
from graphopt.targets.tvm.kernels.common.computes import long, reduce_axis
from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.common.nest import Fused
from graphopt.targets.tvm.kernels.common.windows import Place, Run, for_tiles
from graphopt.targets.tvm.kernels.direct.compute import read_inside
from graphopt.targets.tvm.machine import Machine

KERNEL = "conv_depthwise"

UNROLLED_TAPS = 7
"""Longer filters are left as loops: written out, they would not share more loads than registers hold."""


@dataclass(frozen=True)
class DepthwisePlan:
    """How many positions of a row are computed together."""

    columns: int


def plan_depthwise(workload: ConvWorkload, machine: Machine) -> DepthwisePlan:
    """As many accumulators as leave registers for the filter's taps along a row and the data."""
    return candidates(workload, machine)[0]


def candidates(workload: ConvWorkload, machine: Machine) -> list[DepthwisePlan]:
    """The default first."""
    room = max(4, machine.registers - 2 - workload.spec.kernel[workload.geometry.axis])
    most = min(workload.geometry.width, room, machine.accumulators)
    return [DepthwisePlan(columns) for columns in dict.fromkeys(max(1, most - less) for less in (0, 2, 4, 6))]


def pack_weight(weight: np.ndarray, workload: ConvWorkload) -> np.ndarray:
    """`weight` (C, 1, *kernel) as C/v, taps, v; lanes beyond the last channel are zero."""
    lanes, channels = workload.lanes, workload.spec.out_channels
    blocks = -(-channels // lanes)
    flat = np.pad(weight.reshape(channels, -1), [(0, blocks * lanes - channels), (0, 0)])
    return np.ascontiguousarray(flat.reshape(blocks, lanes, -1).transpose(0, 2, 1))


def depthwise(data: te.Tensor, weight: te.Tensor, workload: ConvWorkload, plan: DepthwisePlan) -> te.Tensor:
    """The convolution of `data` (N, C/v, *space, v) with a packed weight: N, C/v, *out_space, v."""
    spec, geometry = workload.spec, workload.geometry
    taps = [reduce_axis(size, f"r{axis}") for axis, size in enumerate(spec.kernel)]
    zero = tirx.const(0, data.dtype)

    def element(n: Any, block: Any, *index: Any) -> Any:
        *where, lane = index
        tap: Any = long(0)
        for axis, size in enumerate(spec.kernel):
            tap = tap * size + taps[axis]
        value = read_inside(lambda places: data(n, block, *places, lane), geometry, where, taps, zero)
        return te.sum(value * weight(block, tap, lane), axis=taps)

    shape = (data.shape[0], data.shape[1], *geometry.out_space, workload.lanes)
    numbers = (plan.columns, *workload.numbers())
    attributes = {"kernel": KERNEL, "plan": [long(number) for number in numbers]}
    return te.compute([long(size) for size in shape], element, name=KERNEL, attrs=attributes)


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc | None:
    """The loop nest for a function whose anchor is `depthwise`; None for any other function."""
    fused = nest.take_apart(func, KERNEL, machine)
    if fused is None:
        return None
    columns, *rest = fused.plan()
    workload = ConvWorkload.of(rest)
    made = nest.put_together(fused, lambda: _emit(fused, workload, columns))
    return made.with_attr("graphopt.schedule", f"depthwise convolution {columns}x{workload.lanes}")


def _emit(fused: Fused, workload: ConvWorkload, columns: int) -> None:
    geometry = workload.geometry
    runs = geometry.runs(columns)
    blocks = int(fused.shape[1])
    with nest.parallel(fused.shape[0] * (blocks * geometry.rows)) as index:
        place = [index // (blocks * geometry.rows), index // geometry.rows % blocks]
        row = index % geometry.rows
        for_tiles(runs, 0, 1, lambda run, column: _tile(fused, workload, place, run, row, column))


def _tile(fused: Fused, workload: ConvWorkload, place: Sequence[Any], run: Run, row: Any, column: Any) -> None:
    geometry, lanes = workload.geometry, workload.lanes
    data, weight = fused.inputs
    tile = T.alloc_buffer((run.length * lanes,), "float32", scope="local")
    for position in range(run.length):
        with nest.vectorized(lanes) as lane:
            T.buffer_store(tile, tirx.const(0.0, "float32"), [long(position * lanes) + lane])

    def products(tap: Any, positions: tuple[int, ...], source: Place) -> None:
        for position in positions:
            with nest.vectorized(lanes) as lane:
                at = long(position * lanes) + lane
                value = data[*place, *source(position), lane] * weight[place[1], tap, lane]
                T.buffer_store(tile, tile[at] + value, [at])

    # Written out along the row, so that neighbouring positions share the data that they both read.
    unroll = workload.spec.kernel[geometry.axis] <= UNROLLED_TAPS
    geometry.visit_taps(run, row, column, products, unroll=unroll)
    for position in range(run.length):
        with nest.vectorized(lanes) as lane:
            index = [*place, *geometry.position(row, column + position), lane]
            fused.store(index, tile[long(position * lanes) + lane])
