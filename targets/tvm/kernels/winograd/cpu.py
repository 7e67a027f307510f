"""The loop nest of `winograd.winograd` for CPUs.

Of a strip of tiles, first the inputs of all channels are transformed; then, for one panel of output channels after the
other, the products of all frequencies are summed and transformed back, straight into the fused epilogue. Products of a
panel fit the second-level cache, and each weight is read once a strip, in the order in which it lies in memory.

The transforms run over the tiles of a row, first down, then across: neighbours share the columns on which they
overlap, rows and columns outside the image are zeros of the first pass, and those beyond the result are left out of
the second (`winograd.outputs`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common import nest
from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.common.nest import Fused, even_split, serial, vectorized
from graphopt.targets.tvm.kernels.common.norms import Registers, number
from graphopt.targets.tvm.kernels.common.statements import FIRST_LEVEL
from graphopt.targets.tvm.kernels.winograd.compute import KERNEL, from_numbers, packed_shape
from graphopt.targets.tvm.kernels.winograd.linear import multiply_by_rows
from graphopt.targets.tvm.kernels.winograd.outputs import Outputs
from graphopt.targets.tvm.kernels.winograd.plan import WinogradPlan
from graphopt.targets.tvm.kernels.winograd.strips import Row, Strips
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


class _Nest(Strips):
    """Emits one convolution."""

    def __init__(self, fused: Fused, workload: ConvWorkload, plan: WinogradPlan) -> None:
        super().__init__(fused, workload, plan)
        self.in_blocks = -(-workload.spec.in_channels // workload.lanes)
        self.panels = packed_shape(workload, plan)[0]
        self.outputs = Outputs(fused, workload, plan)

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

    # --- first stage

    def _transform_inputs(self, inputs: Any, strip: Any, loop: Callable[[Any], Any]) -> None:
        size, m = self.plan.size, self.plan.outputs
        with loop(self.in_blocks) as block:
            halves = self.alloc_halves(size, self.across * m + 2)

            def emit(row: Row) -> None:
                self._down(halves, block, row)
                with serial(size) as i, serial(row.count) as tile:
                    place = block * self.length + row.place + tile
                    multiply_by_rows(
                        self.matrices.input,
                        self.lanes,
                        lambda j, lane: halves[i, tile * m + j, lane],
                        lambda j, lane, value: T.buffer_store(inputs, value, [i * size + j, place, lane]),
                    )

            self.rows(strip, emit)

    def _down(self, halves: Any, block: Any, row: Row) -> None:
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
            self.outputs.emit(products, strip, panel)

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
