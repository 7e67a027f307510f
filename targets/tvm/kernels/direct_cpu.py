"""The loop nest of `direct.direct` for CPUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels import nest
from graphopt.targets.tvm.kernels.direct import KERNEL, ConvWorkload, DirectPlan, from_numbers
from graphopt.targets.tvm.kernels.nest import Fused, even_split, long
from graphopt.targets.tvm.kernels.windows import Place, Run, for_tiles
from graphopt.targets.tvm.machine import Machine

LINE = 16
"""Elements of a cache line."""
FEW_POSITIONS = 1024
"""Output positions up to which weights are used so little that waiting for them shows."""
PIECES = 64
"""Parallel iterations to aim at, so that the static split over any usual number of cores is even."""


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc | None:
    """The loop nest for a function whose anchor is `direct.direct`; None for any other function."""
    fused = nest.take_apart(func, KERNEL, machine)
    if fused is None:
        return None
    workload, plan = from_numbers(fused.plan())
    made = nest.put_together(fused, _Nest(fused, workload, plan, machine.cores).emit)
    text = f"direct convolution {plan.columns}x{plan.vectors}x{workload.lanes}"
    order = ", rows outside" if plan.rows_outside else f", {plan.chunk} blocks at a time" if plan.chunk else ""
    return made.with_attr("graphopt.schedule", text + order)


@dataclass(frozen=True)
class Part:
    """A part of the reduction: which of `count`, for `rows` rows from `first_row` on, whose sums wait in `sums`."""

    index: Any
    count: int
    sums: Any
    first_row: Any
    rows: int


@dataclass(frozen=True)
class Tile:
    """A register tile: `size` vectors of output channels from `block` on (over all groups), by a run's columns."""

    buffer: Any
    block: Any
    size: int
    run: Run
    lanes: int
    part: Part | None = None

    def at(self, vector: int, position: int, lane: Any) -> Any:
        return long((vector * self.run.length + position) * self.lanes) + lane

    def pairs(self, positions: tuple[int, ...]) -> list[tuple[int, int]]:
        """Vectors by columns; the side of which the tile holds less stays in registers: it comes in the inner loop."""
        if self.run.length < self.size:
            return [(vector, position) for vector in range(self.size) for position in positions]
        return [(vector, position) for position in positions for vector in range(self.size)]


@dataclass(frozen=True)
class _Nest:
    """Emits one convolution."""

    fused: Fused
    workload: ConvWorkload
    plan: DirectPlan
    cores: int

    def emit(self) -> None:
        geometry = self.workload.geometry
        runs = geometry.runs(self.plan.columns)
        if self.plan.chunk:
            self._in_parts(runs)
            return
        rows = self.fused.shape[0] * geometry.rows
        pieces = self._pieces(runs)
        channels = self.workload.spec.groups * self._tiles_of_a_group()
        if self.plan.rows_outside:
            with nest.parallel(rows * pieces) as index, nest.serial(channels) as tile:
                self._piece(runs, tile, index // pieces, index % pieces, pieces)
        else:
            with nest.parallel(channels * rows * pieces) as index:
                self._piece(runs, index // (rows * pieces), index // pieces % rows, index % pieces, pieces)

    def _in_parts(self, runs: list[Run]) -> None:
        """All rows of a group of rows pass for each part of the input channels."""
        geometry, lanes = self.workload.geometry, self.workload.lanes
        channels = self.workload.spec.groups * self._tiles_of_a_group()
        wanted = -(-4 * self.cores // (channels * (self.workload.batch or 1)))
        height = -(-geometry.rows // max(1, min(wanted, geometry.rows)))
        groups = -(-geometry.rows // height)
        parts = self.workload.group_in // (lanes * self.plan.chunk)
        with nest.parallel(channels * self.fused.shape[0] * groups) as index:
            tile, image, group = index // groups % channels, index // (groups * channels), index % groups
            sums = T.alloc_buffer((height * geometry.width * self.plan.vectors * lanes,), "float32")
            first = group * height
            with nest.serial(parts) as part, nest.serial(T.min(long(height), geometry.rows - first)) as row:
                here = Part(part, parts, sums, image * geometry.rows + first, height)
                self._piece(runs, tile, image * geometry.rows + first + row, 0, 1, here)

    def _tiles_of_a_group(self) -> int:
        return sum(count for _, _, count in even_split(self.workload.blocks, self.plan.vectors))

    def _pieces(self, runs: list[Run]) -> int:
        """Into how many pieces a row is cut for threads: as few as make enough parallel iterations."""
        across = 1 if self.plan.rows_outside else self.workload.spec.groups * self._tiles_of_a_group()
        outer = (self.workload.batch or 1) * self.workload.geometry.rows * across
        return max(1, min(max(run.count for run in runs), -(-PIECES // outer)))

    def _piece(self, runs: list[Run], tile: Any, row: Any, piece: Any, pieces: int, part: Part | None = None) -> None:
        """One piece of a row for one tile of output channels, whose size is a constant in each branch."""
        per_group = self._tiles_of_a_group()
        group, inner = (tile // per_group, tile % per_group) if self.workload.spec.groups > 1 else (long(0), tile)
        tiles = even_split(self.workload.blocks, self.plan.vectors)

        def emit(first: int, size: int, before: int) -> None:
            block = group * self.workload.blocks + first + (inner - before) * size
            for_tiles(runs, piece, pieces, lambda run, column: self._tile(run, group, block, size, row, column, part))

        if len(tiles) == 1:
            emit(tiles[0][0], tiles[0][1], 0)
            return
        with T.If(inner < tiles[0][2]):
            with T.Then():
                emit(tiles[0][0], tiles[0][1], 0)
            with T.Else():
                emit(tiles[1][0], tiles[1][1], tiles[0][2])

    def _tile(self, run: Run, group: Any, block: Any, size: int, row: Any, column: Any, part: Part | None) -> None:
        """Accumulators of a tile: cleared, reduced, stored."""
        lanes = self.workload.lanes
        buffer = T.alloc_buffer((size * run.length * lanes,), "float32", scope="local")
        tile = Tile(buffer, block, size, run, lanes, part)
        if part is None:
            self._clear(tile)
            self._reduce(tile, group, row, column)
            self._store(tile, row, column)
            return
        with T.If(part.index == 0):
            with T.Then():
                self._clear(tile)
            with T.Else():
                self._exchange(tile, row, column, load=True)
        self._reduce(tile, group, row, column)
        with T.If(part.index == part.count - 1):
            with T.Then():
                self._store(tile, row, column)
            with T.Else():
                self._exchange(tile, row, column, load=False)

    def _clear(self, tile: Tile) -> None:
        for vector, position in tile.pairs(tuple(range(tile.run.length))):
            with nest.vectorized(tile.lanes) as lane:
                T.buffer_store(tile.buffer, tirx.const(0.0, "float32"), [tile.at(vector, position, lane)])

    def _store(self, tile: Tile, row: Any, column: Any) -> None:
        """Write the finished tile, with what is fused behind the convolution."""
        geometry = self.workload.geometry
        for vector, position in tile.pairs(tuple(range(tile.run.length))):
            where = geometry.position(row % geometry.rows, column + position)
            with nest.vectorized(tile.lanes) as lane:
                index = [row // geometry.rows, tile.block + vector, *where, lane]
                self.fused.store(index, tile.buffer[tile.at(vector, position, lane)])

    def _exchange(self, tile: Tile, row: Any, column: Any, *, load: bool) -> None:
        """Load the sums so far, or put them by."""
        assert tile.part is not None
        sums = tile.part.sums
        start = (row - tile.part.first_row) * self.workload.geometry.width + column
        for vector, position in tile.pairs(tuple(range(tile.run.length))):
            with nest.vectorized(tile.lanes) as lane:
                there = ((start + position) * tile.size + vector) * tile.lanes + lane
                here = tile.at(vector, position, lane)
                if load:
                    T.buffer_store(tile.buffer, sums[there], [here])
                else:
                    T.buffer_store(sums, tile.buffer[here], [there])

    def _reduce(self, tile: Tile, group: Any, row: Any, column: Any) -> None:
        """Sum over blocks of input channels; only channels that exist are read."""
        step = self.workload.lanes if self.workload.blocked else 1
        full, rest = divmod(self.workload.group_in, step)
        source = group * -(-self.workload.group_in // step)
        if tile.part is not None:
            with nest.serial(self.plan.chunk) as index:
                self._channels(tile, source, tile.part.index * self.plan.chunk + index, step, row, column)
            return
        if full:
            with nest.serial(full) as channel:
                self._channels(tile, source, channel, step, row, column)
        if rest:
            self._channels(tile, source, long(full), rest, row, column)

    def _channels(self, tile: Tile, source: Any, channel: Any, width: int, row: Any, column: Any) -> None:
        """The products of one block of `width` input channels with all taps inside the image."""
        geometry = self.workload.geometry
        step = self.workload.lanes if self.workload.blocked else 1

        self._prefetch(tile, channel, row, column)

        def products(tap: Any, positions: tuple[int, ...], place: Place) -> None:
            def read(position: int, part: Any) -> Any:
                return self._read(row // geometry.rows, source + channel, place(position), part)

            self._multiply(tile, positions, read, channel * (step * geometry.taps) + tap * width, width)

        geometry.visit_taps(tile.run, row % geometry.rows, column, products)

    def _prefetch(self, tile: Tile, channel: Any, row: Any, column: Any) -> None:
        """Ask for this tile's share of the weights of the next pass over the rows: they follow those of this one.

        They come from memory, which would be idle while all tiles but the first find their weights in cache.
        """
        geometry, lanes = self.workload.geometry, self.workload.lanes
        blocks = self.plan.chunk or self.workload.group_in // lanes
        rows = tile.part.rows if tile.part else geometry.rows
        positions = rows * geometry.width
        if not self.workload.blocked or not blocks or self.plan.rows_outside or positions > FEW_POSITIONS:
            return
        size = blocks * lanes * geometry.taps * tile.size * lanes
        lines = -(-size // LINE)
        first_row = tile.part.first_row if tile.part else row // geometry.rows * geometry.rows
        share = ((row - first_row) * geometry.width + column) * lines // positions
        each = -(-lines * tile.run.length // (positions * blocks))
        start = tile.block * (self.workload.depth * lanes)
        passes, block = (tile.part.index, channel - tile.part.index * blocks) if tile.part else (0, channel)
        for line in range(each):
            at = T.min(share + block * each + line, long(lines - 1)) * LINE
            address = T.address_of(self.fused.inputs[1][start + (passes + 1) * size + at])
            T.evaluate(tirx.call_intrin("void", "tirx.prefetch", address, 0, 2, 1))

    def _read(self, n: Any, channel: Any, where: list[Any], part: Any) -> Any:
        data = self.fused.inputs[0]
        return data[n, channel, *where, part] if self.workload.blocked else data[n, channel, *where]

    def _multiply(
        self, tile: Tile, positions: tuple[int, ...], read: Callable[[int, Any], Any], k: Any, width: int
    ) -> None:
        """The products of one tap with `width` input channels, whose packed weights begin at step `k` of the tile."""
        weight, lanes = self.fused.inputs[1], self.workload.lanes
        base = tile.block * (self.workload.depth * lanes)
        with nest.serial(width) as part:
            for vector, position in tile.pairs(positions):
                with nest.vectorized(lanes) as lane:
                    factor = weight[base + ((k + part) * tile.size + vector) * lanes + lane]
                    at = tile.at(vector, position, lane)
                    T.buffer_store(tile.buffer, tile.buffer[at] + read(position, part) * factor, [at])
