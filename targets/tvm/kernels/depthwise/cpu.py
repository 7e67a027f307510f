"""The loop nest of `depthwise.depthwise` for CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common import nest
from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.common.nest import Fused, Start
from graphopt.targets.tvm.kernels.common.windows import UNROLLED_TAPS, Place, Run, for_tiles
from graphopt.targets.tvm.kernels.depthwise.compute import KERNEL
from graphopt.targets.tvm.machine import Machine


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc | None:
    """Return the loop nest for a function whose anchor is `depthwise`; None for any other function."""
    fused = nest.take_apart(func, KERNEL, machine)
    if fused is None:
        return None
    columns, *rest = fused.plan()
    workload = ConvWorkload.of(rest)
    started, start = fused.started()
    made = nest.put_together(fused, lambda: _emit(started, start, workload, columns))
    kind = ", integers" if str(fused.output.dtype) == "int32" else ""
    return made.with_attr("graphopt.schedule", f"depthwise convolution {columns}x{workload.lanes}{kind}")


def _emit(fused: Fused, start: Start, workload: ConvWorkload, columns: int) -> None:
    geometry = workload.geometry
    runs = geometry.runs(columns)
    blocks = int(fused.shape[1])
    with nest.parallel(fused.shape[0] * (blocks * geometry.rows)) as index:
        place = [index // (blocks * geometry.rows), index // geometry.rows % blocks]
        row = index % geometry.rows
        for_tiles(runs, 0, 1, lambda run, column: _tile(fused, start, workload, place, run, row, column))


def _tile(
    fused: Fused, start: Start, workload: ConvWorkload, place: Sequence[Any], run: Run, row: Any, column: Any
) -> None:
    geometry, lanes = workload.geometry, workload.lanes
    data, weight = fused.inputs
    kind = str(fused.output.dtype)
    tile = T.alloc_buffer((run.length * lanes,), kind, scope="local")

    def where(position: Any, lane: Any) -> list[Any]:
        return [*place, *geometry.position(row, column + position), lane]

    for position in range(run.length):
        with nest.vectorized(lanes) as lane:
            T.buffer_store(tile, start(where(position, lane)), [long(position * lanes) + lane])

    def products(tap: Any, positions: tuple[int, ...], source: Place) -> None:
        for position in positions:
            with nest.vectorized(lanes) as lane:
                at = long(position * lanes) + lane
                value = data[*place, *source(position), lane].astype(kind)
                T.buffer_store(tile, tile[at] + value * weight[place[1], tap, lane].astype(kind), [at])

    # Unrolled along the row, so that neighbouring positions share the data that they both read.
    unroll = workload.spec.kernel[geometry.axis] <= UNROLLED_TAPS
    geometry.visit_taps(run, row, column, products, unroll=unroll)
    fused.store_tile(
        [(position,) for position in range(run.length)],
        lanes,
        where,
        lambda position, lane: tile[long(position * lanes) + lane],
    )
