"""The loop nest of `direct.direct` for CPUs.

Rows clip the taps that lie above or below the image; the first and last tiles of a row leave out those beside it. No
element is copied for padding, no bound is tested in the loops, and every remainder has a tile of its own size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels import nest
from graphopt.targets.tvm.kernels.direct import (
    KERNEL,
    ConvWorkload,
    DirectPlan,
    from_numbers,
    weight_index,
)
from graphopt.targets.tvm.kernels.nest import Fused, even_split, long
from graphopt.targets.tvm.machine import Machine

PIECES = 64
"""Parallel iterations to aim at, so that the static split over any usual number of cores is even."""


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc | None:
    """The loop nest for a function whose anchor is `direct.direct`; None for any other function."""
    fused = nest.take_apart(func, KERNEL, machine)
    if fused is None:
        return None
    workload, plan = from_numbers(fused.plan())
    made = nest.put_together(fused, _Nest(fused, workload, plan).emit)
    text = f"direct {plan.columns}x{plan.vectors}x{workload.lanes}" + (", rows outside" if plan.rows_outside else "")
    return made.with_attr("graphopt.schedule", text)


@dataclass(frozen=True)
class Run:
    """Tiles of one length in a row that meet the image's edges alike.

    `taps[k]` holds the tile's columns for which tap k lies inside the image.
    """

    first: int
    length: int
    count: int
    taps: tuple[tuple[int, ...], ...]


def row_runs(workload: ConvWorkload, columns: int) -> list[Run]:
    """The tiles of a row from left to right."""
    width = workload.rows[1]
    tiles = [
        (first + i * length, length) for first, length, count in even_split(width, columns) for i in range(count)
    ]
    if workload.is_pointwise:
        inside = [tuple((tuple(range(length)),)) for _, length in tiles]
    else:
        inside = [_taps_inside(workload, first, length) for first, length in tiles]
    runs: list[Run] = []
    for (first, length), taps in zip(tiles, inside, strict=True):
        last = runs[-1] if runs else None
        if last is not None and (last.length, last.taps) == (length, taps):
            runs[-1] = Run(last.first, length, last.count + 1, taps)
        else:
            runs.append(Run(first, length, 1, taps))
    return runs


def _taps_inside(workload: ConvWorkload, first: int, length: int) -> tuple[tuple[int, ...], ...]:
    spec = workload.spec
    return tuple(
        tuple(
            column
            for column in range(length)
            if 0
            <= (first + column) * spec.strides[-1] + tap * spec.dilations[-1] - spec.pads_begin[-1]
            < workload.space[-1]
        )
        for tap in range(spec.kernel[-1])
    )


@dataclass(frozen=True)
class _Nest:
    """Emits one convolution."""

    fused: Fused
    workload: ConvWorkload
    plan: DirectPlan

    def emit(self) -> None:
        runs = row_runs(self.workload, self.plan.columns)
        pieces = self._pieces(runs)
        rows = self.workload.batch * self.workload.rows[0]
        tiles = even_split(self.workload.blocks, self.plan.vectors)
        channels = self.workload.spec.groups * sum(count for _, _, count in tiles)
        if self.plan.rows_outside:
            with nest.parallel(rows * pieces) as index, nest.serial(channels) as tile:
                self._piece(runs, tile, index // pieces, index % pieces, pieces)
        else:
            with nest.parallel(channels * rows * pieces) as index:
                row = index // pieces % rows
                self._piece(runs, index // (rows * pieces), row, index % pieces, pieces)

    def _pieces(self, runs: list[Run]) -> int:
        """Into how many pieces a row is cut for threads: as few as make enough parallel iterations."""
        tiles = even_split(self.workload.blocks, self.plan.vectors)
        across = 1 if self.plan.rows_outside else self.workload.spec.groups * sum(count for _, _, count in tiles)
        outer = self.workload.batch * self.workload.rows[0] * across
        longest = max(run.count for run in runs)
        return max(1, min(longest, -(-PIECES // outer)))

    def _piece(self, runs: list[Run], tile: Any, row: Any, piece: Any, pieces: int) -> None:
        """One piece of a row for one tile of output channels; the tile's size is known in each branch."""
        tiles = even_split(self.workload.blocks, self.plan.vectors)
        per_group = sum(count for _, _, count in tiles)
        group, inner = (tile // per_group, tile % per_group) if self.workload.spec.groups > 1 else (long(0), tile)
        before = 0
        choices = []
        for first, size, count in tiles:
            choices.append((inner < before + count, first, size, before))
            before += count
        self._choose(choices, lambda first, size, base: self._tile(
            runs, group, first + (inner - base) * size, size, row, piece, pieces
        ))

    def _choose(self, choices: list[tuple[Any, int, int, int]], emit: Callable[[int, int, int], None]) -> None:
        condition, *rest = choices[0]
        if len(choices) == 1:
            emit(*rest)
            return
        with T.If(condition):
            with T.Then():
                emit(*rest)
            with T.Else():
                self._choose(choices[1:], emit)

    def _tile(self, runs: list[Run], group: Any, block: Any, size: int, row: Any, piece: Any, pieces: int) -> None:
        for run in runs:
            if pieces == 1:
                with nest.serial(run.count) as index:
                    self._registers(run, group, block, size, row, run.first + index * run.length)
                continue
            share = -(-run.count // pieces)
            start = piece * share
            stop = T.max(long(0), T.min(long(share), run.count - start))
            with nest.serial(stop) as index:
                self._registers(run, group, block, size, row, run.first + (start + index) * run.length)

    def _registers(self, run: Run, group: Any, block: Any, size: int, row: Any, column: Any) -> None:
        """Accumulators for `size` vectors by the run's columns, reduced and stored."""
        lanes = self.workload.lanes
        tile = T.alloc_buffer((size * run.length * lanes,), "float32", scope="local")

        def at(vector: int, position: int, lane: Any) -> Any:
            return [long((vector * run.length + position) * lanes) + lane]

        pairs = [(vector, position) for vector in range(size) for position in range(run.length)]
        for vector, position in pairs:
            with nest.vectorized(lanes) as lane:
                T.buffer_store(tile, tirx.const(0.0, "float32"), at(vector, position, lane))
        self._reduce(run, group, block, size, row, column, tile, at)
        n, where = self._position(row, column)
        for vector, position in pairs:
            index = [n, group * self.workload.blocks + block + vector, *where(position)]
            with nest.vectorized(lanes) as lane:
                self.fused.store([*index, lane], tile[at(vector, position, lane)[0]])

    def _position(self, row: Any, column: Any) -> tuple[Any, Callable[[int], list[Any]]]:
        """The batch index of a row, and the output position of a tile's column."""
        out = self.workload.out_space
        if self.workload.is_pointwise:
            return row, lambda offset: _unflatten(column + offset, out)
        rows = self.workload.rows[0]
        lead = _unflatten(row % rows, out[:-1]) if len(out) > 1 else []
        return row // rows, lambda offset: [*lead, column + offset]

    def _reduce(
        self, run: Run, group: Any, block: Any, size: int, row: Any, column: Any, tile: Any, at: Callable[..., Any]
    ) -> None:
        workload = self.workload
        lanes, total = workload.lanes, workload.group_in
        full, rest = divmod(total, lanes) if workload.blocked else (total, 0)
        first = group * workload.blocks + block
        source = group * (-(-total // lanes) if workload.blocked else total)

        def blocks_of(width: int, count: int, start: int) -> None:
            with nest.serial(count) as index:
                channel = start + index
                self._taps(
                    run,
                    row,
                    lambda tap, positions, place: self._multiply(
                        run, source, first, size, channel, width, tap, positions, place, tile, at
                    ),
                    column,
                )

        if full:
            blocks_of(lanes if workload.blocked else 1, full, 0)
        if rest:
            blocks_of(rest, 1, full)

    def _taps(self, run: Run, row: Any, multiply: Callable[..., None], column: Any) -> None:
        """Loops over the taps inside the image; `multiply(tap, columns, place)` does the work of one.

        `place(column)` is the input position that the tap reads for a column of the tile.
        """
        spec, workload = self.workload.spec, self.workload
        n, _ = self._position(row, column)
        if workload.is_pointwise:
            multiply(long(0), run.taps[0], lambda c: (n, _unflatten(column + c, workload.space)))
            return
        lead = _unflatten(row % workload.rows[0], workload.out_space[:-1]) if len(workload.space) > 1 else []

        def inner(outer_taps: list[Any]) -> None:
            rows = [
                position * spec.strides[axis] + outer_taps[axis] * spec.dilations[axis] - spec.pads_begin[axis]
                for axis, position in enumerate(lead)
            ]
            flat: Any = long(0)
            for axis, tap in enumerate(outer_taps):
                flat = flat * spec.kernel[axis] + tap

            def one(tap: Any, positions: tuple[int, ...]) -> None:
                def place(offset: int) -> tuple[Any, list[Any]]:
                    x = (column + offset) * spec.strides[-1] + tap * spec.dilations[-1] - spec.pads_begin[-1]
                    return n, [*rows, x]

                multiply(flat * spec.kernel[-1] + tap, positions, place)

            whole = tuple(range(run.length))
            if len(run.taps) > 1 and all(taps == whole for taps in run.taps):
                with nest.serial(len(run.taps)) as tap:
                    one(tap, whole)
                return
            for tap, positions in enumerate(run.taps):
                if positions:
                    one(long(tap), positions)

        self._leading(0, lead, [], inner)

    def _leading(self, axis: int, lead: list[Any], taps: list[Any], inner: Callable[[list[Any]], None]) -> None:
        """Loops over the taps of all axes but the last, cut to those inside the image."""
        if axis == len(lead):
            inner(taps)
            return
        spec = self.workload.spec
        size, dilation = spec.kernel[axis], spec.dilations[axis]
        if not spec.pads_begin[axis] and not spec.pads_end[axis]:
            with nest.serial(size) as tap:
                self._leading(axis + 1, lead, [*taps, tap], inner)
            return
        start = lead[axis] * spec.strides[axis] - spec.pads_begin[axis]
        low = T.max(long(0), (dilation - 1 - start) // dilation)
        high = T.min(long(size), (self.workload.space[axis] - start + dilation - 1) // dilation)
        with nest.serial(T.max(long(0), high - low)) as index:
            self._leading(axis + 1, lead, [*taps, low + index], inner)

    def _multiply(
        self,
        run: Run,
        source: Any,
        first: Any,
        size: int,
        channel: Any,
        width: int,
        tap: Any,
        positions: tuple[int, ...],
        place: Callable[[int], tuple[Any, list[Any]]],
        tile: Any,
        at: Callable[..., Any],
    ) -> None:
        """The products of one tap with one block of input channels.

        The side of which a tile holds less stays in registers: it comes in the inner of the two unrolled loops.
        """
        data, weight = self.fused.inputs
        pairs = (
            [(vector, position) for vector in range(size) for position in positions]
            if run.length < size
            else [(vector, position) for position in positions for vector in range(size)]
        )
        taps = math.prod(self.workload.spec.kernel)
        step = self.workload.lanes if self.workload.blocked else 1
        base = first * (self.workload.depth * self.workload.lanes)
        with nest.serial(width) as part:
            k = channel * (step * taps) + tap * width + part
            for vector, position in pairs:
                n, where = place(position)
                value = data[n, source + channel, *where, part] if self.workload.blocked else data[n, source + channel, *where]
                with nest.vectorized(self.workload.lanes) as lane:
                    factor = weight[base + (k * size + vector) * self.workload.lanes + lane]
                    index = at(vector, position, lane)
                    T.buffer_store(tile, tile[index[0]] + value * factor, index)


def _unflatten(position: Any, sizes: tuple[int, ...]) -> list[Any]:
    """A flat position as one index an axis; the first is not taken modulo its size."""
    index: list[Any] = []
    for size in reversed(sizes[1:]):
        index.insert(0, position % size)
        position = position // size
    return [position, *index]
