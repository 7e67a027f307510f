"""The loop nest of `winograd.winograd` for CPUs.

Of a strip of tiles, first the inputs of all channels are transformed; then, for one panel of output channels after the
other, the products of all frequencies are summed and transformed back, straight into the fused epilogue. Products of a
panel fit the second-level cache, and each weight is read once a strip, in the order in which it lies in memory.

The transforms run over the tiles of a row, first down, then across: neighbours share the columns on which they
overlap, rows and columns outside the image are zeros of the first pass, and those beyond the result are left out of
the second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common import nest
from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.common.nest import Fused, even_split, serial, vectorized
from graphopt.targets.tvm.kernels.common.statements import FIRST_LEVEL
from graphopt.targets.tvm.kernels.winograd.compute import KERNEL, from_numbers, packed_shape
from graphopt.targets.tvm.kernels.winograd.linear import Registers, multiply_by_columns, multiply_by_rows, number
from graphopt.targets.tvm.kernels.winograd.plan import WinogradPlan, out_space, tiling
from graphopt.targets.tvm.kernels.winograd.toom_cook import transforms
from graphopt.targets.tvm.machine import Machine

LINE = 64
"""Bytes of a cache line."""


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc | None:
    """The loop nest for a function whose anchor is `winograd.winograd`; None for any other function."""
    fused = nest.take_apart(func, KERNEL, machine)
    if fused is None:
        return None
    workload, plan = from_numbers(fused.plan())
    made = nest.put_together(fused, _Nest(fused, workload, plan).emit)
    text = f"Winograd F({plan.outputs}, 3), tile {plan.columns}x{plan.vectors}x{workload.lanes}, {plan.strips} strips"
    return made.with_attr("graphopt.schedule", text)


@dataclass(frozen=True)
class _Row:
    """The tiles of one row of tiles that belong to a strip."""

    image: Any
    top: Any
    """First row of outputs."""
    first: Any
    """First of the tiles, counted across the image."""
    count: Any
    place: Any
    """Number of the first tile within the strip."""


class _Nest:
    """Emits one convolution."""

    def __init__(self, fused: Fused, workload: ConvWorkload, plan: WinogradPlan) -> None:
        self.store = fused.store
        self.data, self.weight = fused.inputs
        self.plan, self.lanes, self.spec = plan, workload.lanes, workload.spec
        self.height, self.width = workload.space
        self.out_height, self.out_width = out_space(workload)
        self.blocks = workload.blocks
        self.in_blocks = -(-workload.spec.in_channels // workload.lanes)
        self.panels = packed_shape(workload, plan)[0]
        self.tiling = tiling(workload, plan.outputs)
        self.length = -(-self.tiling.tiles // plan.strips)
        self.matrices = transforms(plan.outputs)

    def emit(self) -> None:
        if self.plan.by_strips:
            with nest.parallel(self.plan.strips) as strip:
                inputs = self._alloc_inputs()
                self._transform_inputs(inputs, strip, serial)
                self._multiply(inputs, strip, serial)
        else:
            inputs = self._alloc_inputs()
            with serial(self.plan.strips) as strip:
                self._transform_inputs(inputs, strip, nest.parallel)
                self._multiply(inputs, strip, nest.parallel)

    # --- scratch memory; two vectors more, so that no power of two separates frequencies

    def _alloc_inputs(self) -> Any:
        """Frequencies x (input channel block, tile) x lanes."""
        return T.alloc_buffer((self.plan.frequencies, self.in_blocks * self.length + 2, self.lanes), "float32")

    def _alloc_products(self) -> Any:
        """Frequencies x (vector of the panel, tile) x lanes."""
        return T.alloc_buffer((self.plan.frequencies, self.plan.vectors * self.length + 2, self.lanes), "float32")

    def _alloc_halves(self, rows: int, columns: int) -> Any:
        """What the first pass of a transform leaves to the second; more than 1 KiB, or LLVM would take it apart."""
        return T.alloc_buffer((rows, max(columns, 1 + 256 // (rows * self.lanes)), self.lanes), "float32")

    # --- strips

    def _bounds(self, strip: Any) -> tuple[Any, Any]:
        """The first tile of a strip and the first after it."""
        tiles, strips = self.tiling.tiles, self.plan.strips
        if tiles % strips == 0:
            return strip * self.length, (strip + 1) * self.length
        return strip * tiles // strips, (strip + 1) * tiles // strips

    def _rows(self, strip: Any, emit: Callable[[_Row], None]) -> None:
        """A loop over the rows of tiles that a strip reaches into."""
        across, down = self.tiling.across, self.tiling.down
        begin, end = self._bounds(strip)
        with serial((end - 1) // across - begin // across + 1) as index:
            row = begin // across + index
            first = T.max(begin - row * across, long(0))
            last = T.min(end - row * across, long(across))
            top = row % down * self.plan.outputs
            emit(_Row(row // down, top, first, last - first, row * across + first - begin))

    # --- first stage

    def _transform_inputs(self, inputs: Any, strip: Any, loop: Callable[[Any], Any]) -> None:
        size, m = self.plan.size, self.plan.outputs
        with loop(self.in_blocks) as block:
            halves = self._alloc_halves(size, min(self.length, self.tiling.across) * m + 2)

            def emit(row: _Row) -> None:
                self._down(halves, block, row)
                with serial(size) as i, serial(row.count) as tile:
                    place = block * self.length + row.place + tile
                    multiply_by_rows(
                        self.matrices.input,
                        self.lanes,
                        lambda j, lane: halves[i, tile * m + j, lane],
                        lambda j, lane, value: T.buffer_store(inputs, value, [i * size + j, place, lane]),
                    )

            self._rows(strip, emit)

    def _down(self, halves: Any, block: Any, row: _Row) -> None:
        """Transform the columns that the tiles of a row read."""
        size = self.plan.size
        top, left = row.top - self.spec.pads_begin[0], row.first * self.plan.outputs - self.spec.pads_begin[1]
        columns = row.count * self.plan.outputs + 2
        begin = T.max(long(0), T.min(columns, -left))
        end = T.max(begin, T.min(columns, self.width - left))
        for first, last in ((long(0), begin), (end, columns)):
            with serial(last - first) as x:
                for i in range(size):
                    with vectorized(self.lanes) as lane:
                        T.buffer_store(halves, number(0), [long(i), first + x, lane])

        def column(x: Any, load: Callable[[int, Any], Any]) -> None:
            multiply_by_rows(
                self.matrices.input,
                self.lanes,
                load,
                lambda i, lane, value: T.buffer_store(halves, value, [long(i), begin + x, lane]),
            )

        def read(i: int, x: Any, lane: Any) -> Any:
            return self.data[row.image, block, top + i, left + begin + x, lane]

        with T.If(tirx.all(top >= 0, top + size <= self.height)):
            with T.Then(), serial(end - begin) as x:
                column(x, lambda i, lane: read(i, x, lane))
            with T.Else(), serial(end - begin) as x:
                column(x, self._clipped(top, lambda i, lane: read(i, x, lane)).load)

    def _clipped(self, top: Any, read: Callable[[int, Any], Any]) -> Registers:
        """The inputs of a column of tiles, zero above and below the image."""
        values = Registers(self.plan.size, self.lanes)
        for i in range(self.plan.size):
            with T.If(tirx.all(top + i >= 0, top + i < self.height)):
                with T.Then(), vectorized(self.lanes) as lane:
                    values.store(i, lane, read(i, lane))
                with T.Else(), vectorized(self.lanes) as lane:
                    values.store(i, lane, number(0))
        return values

    # --- second stage

    def _multiply(self, inputs: Any, strip: Any, loop: Callable[[Any], Any]) -> None:
        with loop(self.panels) as panel:
            products = self._alloc_products()
            runs = even_split(self.length, self.plan.columns)
            tiles = sum(count for _, _, count in runs)
            with (
                T.attr(long(0), "compute_scope", "products"),
                serial(self.plan.frequencies) as frequency,
                serial(tiles) as index,
            ):

                def tile(first: Any, columns: int) -> None:
                    self._register_tile(inputs, products, panel, frequency, first, columns, (index, tiles))

                (_, longer, count), *rest = runs
                # Both sizes in one loop: unrolled by LLVM, loops of few tiles end with accumulators in memory.
                if not rest:
                    tile(index * longer, longer)
                else:
                    with T.If(index < count):
                        with T.Then():
                            tile(index * longer, longer)
                        with T.Else():
                            tile(index * (longer - 1) + count, longer - 1)
            self._transform_outputs(products, strip, panel)

    def _register_tile(
        self,
        inputs: Any,
        products: Any,
        panel: Any,
        frequency: Any,
        first: Any,
        columns: int,
        share: tuple[Any, int],
    ) -> None:
        """Products of `columns` tiles by one panel, summed over all real input channels."""
        lanes, vectors = self.lanes, self.plan.vectors
        sums = Registers(columns * vectors, lanes)
        for i in range(columns * vectors):
            with vectorized(lanes) as lane:
                sums.store(i, lane, number(0))
        pairs = [(vector, tile) for vector in range(vectors) for tile in range(columns)]
        if columns >= vectors:  # what a tile holds less of stays in registers
            pairs.sort(key=lambda pair: pair[1])

        def step(block: Any, channel: Any) -> None:
            for vector, tile in pairs:
                with vectorized(lanes) as lane:
                    value = inputs[frequency, block * self.length + first + tile, channel]
                    factor = self.weight[panel, frequency, block * lanes + channel, long(vector * lanes) + lane]
                    at = vector * columns + tile
                    sums.store(at, lane, sums.load(at, lane) + value * factor)

        whole, rest = divmod(self.spec.in_channels, lanes)
        with serial(whole) as block:
            self._prefetch(panel, frequency, block, share)
            with serial(lanes) as channel:
                step(block, channel)
        with serial(rest) as channel:
            step(long(whole), channel)
        for vector, tile in pairs:
            with vectorized(lanes) as lane:
                place = [frequency, vector * self.length + first + tile, lane]
                T.buffer_store(products, sums.load(vector * columns + tile, lane), place)

    def _prefetch(self, panel: Any, frequency: Any, block: Any, share: tuple[Any, int]) -> None:
        """Ask for this tile's share of the weights of the next frequency (or panel): they follow in memory.

        They come from memory, which would be idle while all tiles but the first find their weights in cache.
        """
        index, tiles = share
        width = self.plan.vectors * self.lanes
        step = LINE // 4
        lines = self.lanes * width // step
        each = -(-lines // tiles)
        for line in range(each):
            at = T.min(index * each + line, long(lines - 1)) * step
            place = [panel, frequency + 1, block * self.lanes + at // width, at % width]
            nest.prefetch(self.weight, place, FIRST_LEVEL)

    # --- third stage

    def _transform_outputs(self, products: Any, strip: Any, panel: Any) -> None:
        size, m = self.plan.size, self.plan.outputs
        across = min(self.length, self.tiling.across)
        halves = self._alloc_halves(m, size * across)
        vectors: Any = self.plan.vectors
        if self.blocks % self.plan.vectors:
            vectors = T.min(long(vectors), self.blocks - panel * vectors)
        with serial(vectors) as vector:

            def emit(row: _Row) -> None:
                place = vector * self.length + row.place
                with serial(size) as j, serial(row.count) as tile:
                    multiply_by_columns(
                        self.matrices.output,
                        self.lanes,
                        lambda i, lane: products[i * size + j, place + tile, lane],
                        lambda i, lane, value: T.buffer_store(halves, value, [long(i), j * across + tile, lane]),
                    )
                self._across(halves, across, panel * self.plan.vectors + vector, row)

            self._rows(strip, emit)

    def _across(self, halves: Any, across: int, block: Any, row: _Row) -> None:
        """The second pass: rows of the result, without what lies beyond it."""
        m = self.plan.outputs
        rest = self.out_width % m
        rows = m if self.out_height % m == 0 else T.min(long(m), self.out_height - row.top)
        whole = row.count if rest == 0 else T.min(row.count, self.out_width // m - row.first)
        with serial(rows) as i:

            def outputs(tile: Any, count: int) -> None:
                left = (row.first + tile) * m
                multiply_by_columns(
                    self.matrices.output[:count],
                    self.lanes,
                    lambda j, lane: halves[i, j * across + tile, lane],
                    lambda j, lane, value: self.store([row.image, block, row.top + i, left + j, lane], value),
                )

            with serial(whole) as tile:
                outputs(tile, m)
            if rest:
                with T.If(whole < row.count), T.Then():
                    outputs(whole, rest)
