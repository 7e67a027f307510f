"""The loop nest of `pooling.pool` for CPUs: a vector of channels at a time, a few positions of a row in registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common import nest
from graphopt.targets.tvm.kernels.common.computes import long, lowest
from graphopt.targets.tvm.kernels.common.nest import Fused
from graphopt.targets.tvm.kernels.common.windows import UNROLLED_TAPS, Geometry, Place, Run, for_tiles
from graphopt.targets.tvm.kernels.pooling.compute import KERNEL, MAX
from graphopt.targets.tvm.machine import Machine


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc | None:
    """The loop nest for a function whose anchor is `pool`; None for any other function."""
    fused = nest.take_apart(func, KERNEL, machine)
    if fused is None:
        return None
    columns, lanes, kind, *rest = fused.plan()
    made = nest.put_together(fused, lambda: _emit(fused, Geometry.of(rest), columns, lanes, kind))
    return made.with_attr("graphopt.schedule", f"pooling {columns}x{lanes}")


def _emit(fused: Fused, geometry: Geometry, columns: int, lanes: int, kind: int) -> None:
    runs = geometry.runs(columns)
    blocks = int(fused.shape[1])
    with nest.parallel(fused.shape[0] * (blocks * geometry.rows)) as index:
        place = [index // (blocks * geometry.rows), index // geometry.rows % blocks]
        row = index % geometry.rows
        for_tiles(runs, 0, 1, lambda run, column: _tile(fused, geometry, lanes, kind, place, run, row, column))


def _tile(
    fused: Fused, geometry: Geometry, lanes: int, kind: int, place: Sequence[Any], run: Run, row: Any, column: Any
) -> None:
    (data,) = fused.inputs
    dtype = str(data.dtype)
    tile = T.alloc_buffer((run.length * lanes,), dtype, scope="local")
    first = lowest(dtype) if kind == MAX else tirx.const(0, dtype)
    for position in range(run.length):
        with nest.vectorized(lanes) as lane:
            T.buffer_store(tile, first, [long(position * lanes) + lane])

    def combine(_: Any, positions: tuple[int, ...], source: Place) -> None:
        for position in positions:
            with nest.vectorized(lanes) as lane:
                at = long(position * lanes) + lane
                value = data[*place, *source(position), lane]
                T.buffer_store(tile, tirx.max(tile[at], value) if kind == MAX else tile[at] + value, [at])

    geometry.visit_taps(run, row, column, combine, unroll=geometry.kernel[geometry.axis] <= UNROLLED_TAPS)
    fused.store_tile(
        [(position,) for position in range(run.length)],
        lanes,
        lambda position, lane: [*place, *geometry.position(row, column + position), lane],
        lambda position, lane: tile[long(position * lanes) + lane],
    )
