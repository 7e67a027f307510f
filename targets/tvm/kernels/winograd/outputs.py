"""The last stage of a Winograd convolution: the transform of the products back into results."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.nest import serial, stored, vectorized
from graphopt.targets.tvm.kernels.common.norms import Norms, number
from graphopt.targets.tvm.kernels.winograd import rescue
from graphopt.targets.tvm.kernels.winograd.linear import multiply_by_columns
from graphopt.targets.tvm.kernels.winograd.strips import Row, Strips
from graphopt.targets.tvm.kernels.winograd.toom_cook import TAPS


class Outputs(Strips):
    """Emits the stage for a panel of a strip. Tiles that the transforms would spoil are computed anew (`rescue`)."""

    def emit(self, products: Any, strip: Any, panel: Any) -> None:
        size, m = self.plan.size, self.plan.outputs
        halves = self.alloc_halves(m, size * self.across)
        vectors: Any = self.plan.vectors
        if self.blocks % self.plan.vectors:
            vectors = T.min(long(vectors), self.blocks - panel * vectors)
        with serial(vectors) as vector:

            def emit(row: Row) -> None:
                place = vector * self.length + row.place
                norms = Norms(self.lanes)

                def keep(i: int, lane: Any, value: Any, at: Any) -> None:
                    T.buffer_store(halves, value, [long(i), at, lane])
                    if i in (0, m - 1):
                        norms.add(min(i, 1), lane, halves[long(i), at, lane])

                with serial(size) as j, serial(row.count) as tile:
                    multiply_by_columns(
                        self.matrices.output,
                        self.lanes,
                        lambda i, lane: products[i * size + j, place + tile, lane],
                        lambda i, lane, value: keep(i, lane, value, j * self.across + tile),
                    )
                with T.If(norms.are_usual()):
                    with T.Then():
                        self._across(halves, panel * self.plan.vectors + vector, row)
                    with T.Else():
                        self._rescue(halves, panel, vector, row)

            self.rows(strip, emit)

    def _rows_of(self, row: Row) -> Any:
        """How many rows of the result a row of tiles has."""
        m = self.plan.outputs
        return m if self.out_height % m == 0 else T.min(long(m), self.out_height - row.top)

    def _across(self, halves: Any, block: Any, row: Row) -> None:
        """The second pass: rows of the result, without what lies beyond it."""
        m = self.plan.outputs
        rest = self.out_width % m
        whole = row.count if rest == 0 else T.min(row.count, self.out_width // m - row.first)
        with serial(self._rows_of(row)) as i:

            def outputs(tile: Any, count: int) -> None:
                left = (row.first + tile) * m
                multiply_by_columns(
                    self.matrices.output[:count],
                    self.lanes,
                    lambda j, lane: halves[i, j * self.across + tile, lane],
                    lambda j, lane, value: self.store([row.image, block, row.top + i, left + j, lane], value),
                )

            with serial(whole) as tile:
                outputs(tile, m)
            if rest:
                with T.If(whole < row.count), T.Then():
                    outputs(whole, rest)

    def _rescue(self, halves: Any, panel: Any, vector: Any, row: Row) -> None:
        """The second pass for a row with tiles that are to be summed up directly."""
        m, lanes = self.plan.outputs, self.lanes
        row = Row(*[stored(value) for value in vars(row).values()])  # computed once: code that is rarely run
        values = self.alloc_halves(m * m, 1)
        with serial(row.count) as tile:
            left = stored((row.first + tile) * m)
            norms = Norms(lanes)

            def keep(i: Any, k: int, lane: Any, value: Any) -> None:
                T.buffer_store(values, value, [i * m + k, long(0), lane])
                norms.add(k % 2, lane, values[i * m + k, long(0), lane])

            with serial(m) as i:
                multiply_by_columns(
                    self.matrices.output,
                    lanes,
                    lambda j, lane: halves[i, j * self.across + tile, lane],
                    lambda k, lane, value: keep(i, k, lane, value),
                )
            with T.If(tirx.Not(norms.are_usual())), T.Then():
                self._direct_sums(values, panel, vector, row, left)
            columns = T.min(long(m), self.out_width - left)
            with serial(self._rows_of(row)) as i, serial(columns) as k, vectorized(lanes) as lane:
                place = [row.image, panel * self.plan.vectors + vector, row.top + i, left + k, lane]
                self.store(place, values[i * m + k, long(0), lane])

    def _direct_sums(self, values: Any, panel: Any, vector: Any, row: Row, left: Any) -> None:
        """The outputs of the tile whose first is at (row.top, left)."""
        m, lanes = self.plan.outputs, self.lanes
        taps, halves = self.alloc_halves(TAPS**2, 1), self.alloc_halves((TAPS + 1) * self.plan.size, 1)
        with serial(m * m) as index, vectorized(lanes) as lane:
            T.buffer_store(values, number(0), [index, long(0), lane])
        corner = [row.top - self.spec.pads_begin[0], left - self.spec.pads_begin[1]]
        with serial(self.spec.in_channels) as channel:
            rescue.recover_taps(self.weight, [panel, channel], vector * lanes, self.matrices, halves, taps)
            place = [row.image, channel // lanes, channel % lanes]
            rescue.add_products(self.data, place, corner, taps, values, m)
