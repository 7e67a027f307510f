"""The loop nest of `direct.direct` for CPUs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common import nest
from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.common.dot import Dot, bytes_of
from graphopt.targets.tvm.kernels.common.nest import Fused, Start
from graphopt.targets.tvm.kernels.common.norms import Norms
from graphopt.targets.tvm.kernels.common.statements import FIRST_LEVEL, SECOND_LEVEL
from graphopt.targets.tvm.kernels.common.windows import Place, Run, for_tiles
from graphopt.targets.tvm.kernels.direct.compute import KERNEL, from_numbers
from graphopt.targets.tvm.kernels.direct.plan import DirectPlan, packed_depth, padded, tiles_of
from graphopt.targets.tvm.kernels.direct.rescue import store_own_groups
from graphopt.targets.tvm.machine import Machine

LINE = 64
"""The number of bytes in a cache line."""
FEW_POSITIONS = 1024
"""The number of output positions up to which weights are reused so little that their latency matters."""
PIECES = 64
"""The desired number of parallel iterations, so that the static split over any usual number of cores is even."""


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc | None:
    """Return the loop nest for a function whose anchor is `direct.direct`; None for any other function."""
    fused = nest.take_apart(func, KERNEL, machine)
    if fused is None:
        return None
    workload, plan = from_numbers(fused.plan())
    made = nest.put_together(fused, _Nest(*fused.started(), workload, plan, machine.cores).emit)
    dot = plan.dot(workload)
    way = "" if dot.width == 1 and fused.output.dtype == "float32" else f", {dot.name}"
    text = f"direct convolution {plan.columns}x{plan.vectors}x{workload.lanes}{way}"
    bands = f", {plan.bands} bands" if plan.bands else ""
    chunks = f", {plan.chunk} blocks at a time" if plan.chunk else ""
    return made.with_attr("graphopt.schedule", text + bands + chunks)


@dataclass(frozen=True)
class Band:
    """Output positions processed together: `rows` rows of an image from `first` on, or one of `pieces` of each row.

    `width`: the columns of a row, or of its longest piece.
    """

    image: Any
    first: Any
    rows: int
    piece: Any
    pieces: int
    width: int


@dataclass(frozen=True)
class Part:
    """A part of the reduction, one of `count`; the sums of a band are kept in `sums` until the next part."""

    index: Any
    count: int
    sums: Any


@dataclass(frozen=True)
class Tile:
    """A register tile: `size` vectors of output channels from `block` on (over all groups), by a run's columns."""

    buffer: Any
    group: Any
    block: Any
    size: int
    band: Band
    row: Any
    run: Run
    column: Any
    place: Any
    """The number of positions of the band before those of the tile."""
    lanes: int
    part: Part | None = None

    def at(self, vector: int, position: int, lane: Any) -> Any:
        return long((vector * self.run.length + position) * self.lanes) + lane

    def pairs(self, positions: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return vectors by columns; the shorter side of the tile is in the inner loop and stays in registers."""
        if self.run.length < self.size:
            return [(vector, position) for vector in range(self.size) for position in positions]
        return [(vector, position) for position in positions for vector in range(self.size)]


@dataclass(frozen=True)
class _Nest:
    """Emits one convolution."""

    fused: Fused
    start: Start
    workload: ConvWorkload
    plan: DirectPlan
    cores: int

    @property
    def dot(self) -> Dot:
        return self.plan.dot(self.workload)

    @property
    def kind(self) -> str:
        """The type of the sums."""
        return str(self.fused.output.dtype)

    @property
    def depth(self) -> int:
        """The weights of an output channel."""
        return packed_depth(self.workload, self.dot.width)

    def emit(self) -> None:
        runs = self.workload.geometry.runs(self.plan.columns)
        images, channels = self.fused.shape[0], self.workload.groups * self._tiles_of_a_group()
        height, pieces = self._cut(runs, self.plan.bands or self._bands_for_threads(channels))
        groups = -(-self.workload.geometry.rows // height)
        bands = groups * pieces
        with nest.parallel(channels * images * bands) as index:
            if self.plan.bands:
                tile, place = index % channels, index // channels
            else:
                tile, place = index // (images * bands), index % (images * bands)
            first, width = place // pieces % groups * height, _columns(runs, pieces)
            band = Band(place // bands, first, height, place % pieces, pieces, width)
            self._band(runs, tile, band)

    def _bands_for_threads(self, channels: int) -> int:
        """Return the bands of an image that are made only for enough parallel iterations; each reloads chunks."""
        wanted = 4 * self.cores if self.plan.chunk else PIECES
        return -(-wanted // (channels * (self.workload.batch or 1)))

    def _cut(self, runs: list[Run], wanted: int) -> tuple[int, int]:
        """Return the rows of a band, and the pieces of each row, for about as many bands of an image as wanted."""
        rows = self.workload.geometry.rows
        height = -(-rows // min(wanted, rows))
        pieces = min(max(run.count for run in runs), -(-wanted // rows))
        return height, pieces

    def _tiles_of_a_group(self) -> int:
        return sum(count for _, _, count in tiles_of(self.workload, self.plan.vectors))

    def _band(self, runs: list[Run], tile: Any, band: Band) -> None:
        """Emit all rows of a band for one tile of output channels, once for each part of the input channels."""
        geometry, lanes = self.workload.geometry, self.workload.lanes
        rows: Any = long(band.rows)
        if geometry.rows % band.rows:
            rows = T.min(rows, geometry.rows - band.first)
        if not self.plan.chunk:
            with nest.serial(rows) as row:
                self._piece(runs, tile, band, band.first + row, None)
            return
        parts = self.workload.group_in // (self.workload.step * self.plan.chunk)
        sums = T.alloc_buffer((band.rows * band.width * self.plan.vectors * lanes,), self.kind)
        with nest.serial(parts) as part, nest.serial(rows) as row:
            self._piece(runs, tile, band, band.first + row, Part(part, parts, sums))

    def _piece(self, runs: list[Run], tile: Any, band: Band, row: Any, part: Part | None) -> None:
        """Emit a row of a band for one tile of output channels, whose size is a constant in each branch."""
        per_group, lanes = self._tiles_of_a_group(), self.workload.lanes
        group, inner = (tile // per_group, tile % per_group) if self.workload.groups > 1 else (long(0), tile)

        def emit(size: int, before: int, runs_of_size: list[tuple[int, int]]) -> None:
            block = group * self.workload.blocks + _first_block(inner - before, size, runs_of_size)

            def compute(run: Run, column: Any) -> None:
                buffer = T.alloc_buffer((size * run.length * lanes,), self.kind, scope="local")
                before = _columns(runs[: runs.index(run)], band.pieces)
                start = run.first + band.piece * _columns([run], band.pieces)
                place = (row - band.first) * band.width + before + column - start
                self._tile(Tile(buffer, group, block, size, band, row, run, column, place, lanes, part))

            for_tiles(runs, band.piece, band.pieces, compute)

        by_size: dict[int, list[tuple[int, int]]] = {}
        for first, size, count in tiles_of(self.workload, self.plan.vectors):
            by_size.setdefault(size, []).append((first, count))

        def branch(sizes: list[int], before: int) -> None:
            here = by_size[sizes[0]]
            end = before + sum(count for _, count in here)
            if len(sizes) == 1:
                emit(sizes[0], before, here)
                return
            with T.If(inner < end):
                with T.Then():
                    emit(sizes[0], before, here)
                with T.Else():
                    branch(sizes[1:], end)

        branch(list(by_size), 0)

    def _tile(self, tile: Tile) -> None:
        """Emit the accumulators of a tile: cleared, reduced, stored."""
        part = tile.part
        if part is None:
            self._clear(tile)
            self._reduce(tile)
            if self.workload.is_banded and self.kind == "float32":
                self._store_band(tile)
            else:
                self._store(tile)
            return
        with T.If(part.index == 0):
            with T.Then():
                self._clear(tile)
            with T.Else():
                self._exchange(tile, load=True)
        self._reduce(tile)
        with T.If(part.index == part.count - 1):
            with T.Then():
                self._store(tile)
            with T.Else():
                self._exchange(tile, load=False)

    def _clear(self, tile: Tile) -> None:
        for vector, position in tile.pairs(tuple(range(tile.run.length))):
            with nest.vectorized(tile.lanes) as lane:
                first = self.start(self._place(tile, vector, position, lane))
                T.buffer_store(tile.buffer, first, [tile.at(vector, position, lane)])

    def _place(self, tile: Tile, vector: Any, position: Any, lane: Any) -> list[Any]:
        """Return the indices of an element of a tile in the result."""
        where = self.workload.geometry.position(tile.row, tile.column + position)
        return [tile.band.image, tile.block + vector, *where, lane]

    def _store(self, tile: Tile) -> None:
        """Write the finished tile, with the fused epilogue."""
        self.fused.store_tile(
            tile.pairs(tuple(range(tile.run.length))),
            tile.lanes,
            functools.partial(self._place, tile),
            lambda vector, position, lane: tile.buffer[tile.at(vector, position, lane)],
        )

    def _store_band(self, tile: Tile) -> None:
        """Write a tile of a band, which an infinity of another group may have spoiled."""
        positions = tuple(range(tile.run.length))
        norms = Norms(tile.lanes)
        for vector, position in tile.pairs(positions):
            with nest.vectorized(tile.lanes) as lane:
                norms.add(position % 2, lane, tile.buffer[tile.at(vector, position, lane)])
        with T.If(norms.are_usual()):
            with T.Then():
                self._store(tile)
            with T.Else(), nest.serial(tile.run.length) as position:
                where = self.workload.geometry.position(tile.row, T.bind(tile.column + position))
                store_own_groups(self.fused, self.workload, tile.band.image, (tile.block, tile.size), where)

    def _exchange(self, tile: Tile, *, load: bool) -> None:
        """Load the partial sums, or store them."""
        assert tile.part is not None
        sums = tile.part.sums
        for vector, position in tile.pairs(tuple(range(tile.run.length))):
            with nest.vectorized(tile.lanes) as lane:
                there = ((tile.place + position) * tile.size + vector) * tile.lanes + lane
                here = tile.at(vector, position, lane)
                if load:
                    T.buffer_store(tile.buffer, sums[there], [here])
                else:
                    T.buffer_store(sums, tile.buffer[here], [there])

    def _reduce(self, tile: Tile) -> None:
        """Sum over blocks of input channels; only real channels are read."""
        step = self.workload.step
        full, rest = divmod(self.workload.group_in, step)
        if tile.part is not None:
            with nest.serial(self.plan.chunk) as index:
                self._channels(tile, tile.part.index * self.plan.chunk, index, step)
            return
        if self.workload.is_banded:
            _, full = self.workload.band(tile.block)
        if not isinstance(full, int) or full:
            with nest.serial(full) as channel:
                self._channels(tile, 0, channel, step)
        if rest:
            self._channels(tile, 0, long(full), rest)

    def _channels(self, tile: Tile, first: Any, index: Any, width: int) -> None:
        """Emit the products of one block of `width` input channels, `first` + `index`, with all taps in the image."""
        geometry, step = self.workload.geometry, self.workload.step
        channel = first + index
        before = tile.group * -(-self.workload.group_in // step)
        source = (self.workload.band(tile.block)[0] if self.workload.is_banded else before) + channel
        room = padded(width, self.dot.width)
        if self.workload.blocked:
            self._prefetch_weights(tile, index)
            self._prefetch_data(tile, source)

        def products(tap: Any, positions: tuple[int, ...], place: Place) -> None:
            def read(position: int, part: Any) -> list[Any]:
                where = [tile.band.image, source, *place(position)]
                return [self.fused.inputs[0], *where, part] if self.workload.blocked else [self.fused.inputs[0], *where]

            self._multiply(tile, positions, read, channel * (step * geometry.taps) + tap * room, width)

        geometry.visit_taps(tile.run, tile.row, tile.column, products)

    def _prefetch_weights(self, tile: Tile, index: Any) -> None:
        """Prefetch this tile's share of the weights for the band's next pass, which follow those of this one.

        They come from memory, which would be idle while all tiles but the first find their weights in cache.
        """
        geometry, lanes, step = self.workload.geometry, self.workload.lanes, self.workload.step
        blocks = self.plan.chunk or -(-self.workload.group_in // step)
        positions = tile.band.rows * tile.band.width
        if positions > FEW_POSITIONS:
            return
        size = blocks * step * geometry.taps * tile.size * lanes
        line_size = LINE // bytes_of(str(self.fused.inputs[1].dtype))
        lines = -(-size // line_size)
        share = tile.place * lines // positions
        each = -(-lines * tile.run.length // (positions * blocks))
        start = tile.block * (self.depth * lanes) + ((tile.part.index if tile.part else 0) + 1) * size
        for line in range(each):
            at = T.min(share + index * each + line, long(lines - 1)) * line_size
            nest.prefetch(self.fused.inputs[1], [start + at], SECOND_LEVEL)

    def _prefetch_data(self, tile: Tile, channel: Any) -> None:
        """Prefetch what the next tile of one long row reads of this block of channels, or the tile in the row below.

        Blocks are too far apart for the hardware prefetcher, which sees only a few lines of each.
        """
        positions = max(1, LINE // (bytes_of(str(self.fused.inputs[0].dtype)) * self.workload.step))
        for place in self.workload.geometry.ahead(tile.run, tile.row, tile.column, positions):
            nest.prefetch(self.fused.inputs[0], [tile.band.image, channel, *place, 0], FIRST_LEVEL)

    def _multiply(
        self, tile: Tile, positions: tuple[int, ...], read: Callable[[int, Any], list[Any]], k: Any, width: int
    ) -> None:
        """Emit the products of one tap with `width` input channels, whose packed weights begin at channel `k`.

        `read` returns where an element of the data is: the buffer and its indices.
        """
        weight, lanes = self.fused.inputs[1], self.workload.lanes
        base = tile.block * (self.depth * lanes)
        step = self.dot.width

        def add(part: Any, count: int | None) -> None:
            for vector, position in tile.pairs(positions):
                first = base + ((k // step + part) * tile.size + vector) * (lanes * step)
                at = tile.at(vector, position, long(0))
                total = self.dot.add(tile.buffer, at, read(position, part * step), [weight, first], count)
                T.buffer_store(tile.buffer, total, [tirx.Ramp(at, long(1), lanes)])

        # Lanes after the last channel may hold a NaN, and zero times NaN is not zero, but for integers.
        whole, rest = (padded(width, step) // step, 0) if self.kind == "int32" else divmod(width, step)
        if whole:
            with nest.serial(whole) as part:
                add(part, None)
        if rest:
            add(long(whole), rest)


def _first_block(index: Any, size: int, runs: list[tuple[int, int]]) -> Any:
    """Return the first block of a tile of `size` blocks; `runs` are first blocks and numbers of tiles in a row."""
    first, before = runs[0][0] + index * size, 0
    for (_, count), (block, _) in itertools.pairwise(runs):
        before += count
        first = tirx.Select(index < before, first, block + (index - before) * size)
    return first


def _columns(runs: list[Run], pieces: int) -> int:
    """Return the largest number of columns of one of `pieces` of a row over its runs, as `for_tiles` divides them."""
    return sum(-(-run.count // pieces) * run.length for run in runs)
