"""Many rows of data by a panel of the matrix, of which some hundred rows at a time are unpacked in a cached buffer."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common import nest
from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.dot import Dot
from graphopt.targets.tvm.kernels.nbits.data import Data
from graphopt.targets.tvm.kernels.nbits.plan import TILE_VECTORS, Layout
from graphopt.targets.tvm.kernels.nbits.vectors import Matrix, Sums, spread

DEPTH = 256
"""The approximate rows of the matrix that are unpacked at a time."""
BLOCK_ROWS = 128
"""The number of rows of data whose totals are kept while the matrix passes by."""


@dataclass(frozen=True)
class _Part:
    """`depth` rows of a panel, from the start of a unit, in the buffer that they are unpacked to and that of totals."""

    panel: Any
    unit: Any
    depth: int
    unpacked: Any
    totals: Any


@dataclass(frozen=True)
class ManyRows:
    """Emits the totals of up to BLOCK_ROWS rows: of `source` as floats, or of prepared data that were rounded.

    Strips of the panel, TILE_VECTORS wide, are unpacked one after the other into `unpacked`, so that a register tile
    reads adjacent memory.
    """

    matrix: Matrix
    source: Any
    data: Data | None
    dot: Dot

    @property
    def layout(self) -> Layout:
        return self.matrix.layout

    @property
    def strip(self) -> int:
        """The vectors of a strip."""
        return min(TILE_VECTORS, self.layout.plan.vectors)

    @property
    def strips(self) -> int:
        return self.layout.plan.vectors // self.strip

    @property
    def unit(self) -> int:
        """The rows that are unpacked with the same scales: a group, or a part of one that is large."""
        part = math.gcd(self.layout.workload.block, DEPTH)
        return self.layout.workload.block if self.data or part % self.layout.per else part

    def totals(self, panel: Any, first: Any, count: Any) -> Any:
        """Return the totals as a buffer of rows and columns; part after part of the matrix is added to them."""
        plan, work, unit = self.layout.plan, self.layout.workload, self.unit
        units = max(1, DEPTH // unit)
        depth = min(units * unit, -(-work.k // unit) * unit)
        totals = T.alloc_buffer((BLOCK_ROWS, plan.width), "float32")
        with nest.serial(count) as row, nest.serial(plan.vectors) as vector:
            T.buffer_store(totals, spread(tirx.const(0.0, "float32"), plan.lanes), self._place(row, vector))
        unpacked = self._unpacked(units)
        whole, rest = divmod(work.k, depth)
        with nest.serial(whole) as part:
            self._part(panel, part * units, depth, first, count, unpacked, totals)
        if rest:
            self._part(panel, long(whole * units), rest, first, count, unpacked, totals)
        return totals

    def _unpacked(self, units: int) -> Any:
        """Return the buffer for some units: strips, rows (or fours of rows), and columns (with four bytes each)."""
        width = self.strip * self.layout.plan.lanes
        if self.data is None:
            return T.alloc_buffer(
                (self.strips, units * -(-self.unit // self.layout.per) * self.layout.per, width), "float32"
            )
        return T.alloc_buffer((self.strips, units * self.layout.rows // 4, width * 4), "uint8")

    def _part(self, panel: Any, unit: Any, depth: int, first: Any, count: Any, unpacked: Any, totals: Any) -> None:
        """Emit `depth` rows of the matrix, from the start of a unit."""
        plan = self.layout.plan
        units = -(-depth // self.unit)
        with nest.serial(units) as index, nest.serial(self.strips) as strip:
            self._unpack(panel, unit + index, index, strip, unpacked)
        tile = self._tile_of_bytes if self.data else self._tile_of_floats
        emit = functools.partial(tile, _Part(panel, unit, depth, unpacked, totals))
        tiles = count // plan.rows
        with nest.serial(self.strips) as strip:
            with nest.serial(tiles) as index:
                emit(strip, first, index * plan.rows, plan.rows)
            with nest.serial(count - tiles * plan.rows) as row:
                emit(strip, first, tiles * plan.rows + row, 1)

    def _unpack(self, panel: Any, unit: Any, index: Any, strip: Any, unpacked: Any) -> None:
        """Emit the unpacking of a unit into the place `index` of the buffer."""
        layout, plan = self.layout, self.layout.plan
        words_of_unit = -(-self.unit // layout.per)
        per_group = layout.words // words_of_unit
        start = self.matrix.start(panel, unit // per_group)
        skipped = unit % per_group * words_of_unit
        with nest.serial(words_of_unit) as word:
            for within in range(self.strip):
                vector = strip * self.strip + within
                words = nest.stored(self.matrix.words(start, skipped + word, vector))
                if self.data:
                    for part in range(8 // layout.workload.bits):
                        row = (index * layout.words + word) * (layout.per // 4) + part
                        span = tirx.Ramp(long(within * plan.lanes * 4), long(1), plan.lanes * 4)
                        T.buffer_store(unpacked, self.matrix.four_rows(words, part), [strip, row, span])
                    continue
                for place in range(min(layout.per, self.unit)):
                    row = index * self.unit + word * layout.per + place
                    span = tirx.Ramp(long(within * plan.lanes), long(1), plan.lanes)
                    number = self.matrix.integers(words, place) - self.matrix.zero(start, vector)
                    T.buffer_store(unpacked, self.matrix.scale(start, vector) * number, [strip, row, span])

    def _tile_of_floats(self, part: _Part, strip: Any, first: Any, row: Any, rows: int) -> None:
        lanes = self.layout.plan.lanes
        sums = Sums(rows * self.strip, lanes, "float32")
        sums.clear()
        start = part.unit * self.unit
        with nest.serial(part.depth) as k:
            for r in range(rows):
                x = spread(self.source[first + row + r, start + k], lanes)
                for vector in range(self.strip):
                    weight = part.unpacked[strip, k, tirx.Ramp(long(vector * lanes), long(1), lanes)]
                    at = r * self.strip + vector
                    sums[at] = sums[at] + x * weight
        for at in range(sums.count):
            place = self._place(row + at // self.strip, strip * self.strip + at % self.strip)
            T.buffer_store(part.totals, part.totals[tuple(place)] + sums[at], place)

    def _tile_of_bytes(self, part: _Part, strip: Any, first: Any, row: Any, rows: int) -> None:
        assert self.data is not None
        layout, lanes = self.layout, self.layout.plan.lanes
        with nest.serial(-(-part.depth // self.unit)) as index:
            group = part.unit + index
            sums = Sums(rows * self.strip, lanes, "int32")
            for at in range(sums.count):
                sums[at] = self.data.initial(first + row + at // self.strip, group)
            with nest.serial(layout.rows // 4) as four:
                for r in range(rows):
                    x = self.data.four(first + row + r, group, four * 4)
                    for vector in range(self.strip):
                        span = tirx.Ramp(long(vector * lanes * 4), long(1), lanes * 4)
                        weights = part.unpacked[strip, index * (layout.rows // 4) + four, span]
                        at = r * self.strip + vector
                        sums[at] = self.dot.products(sums[at], weights, x)
            start = self.matrix.start(part.panel, group)
            for at in range(sums.count):
                r, vector = at // self.strip, strip * self.strip + at % self.strip
                place = self._place(row + r, vector)
                value = self.data.scaled(start, vector, first + row + r, group, sums[at])
                T.buffer_store(part.totals, part.totals[tuple(place)] + value, place)

    def _place(self, row: Any, vector: Any) -> list[Any]:
        lanes = self.layout.plan.lanes
        return [row, tirx.Ramp(vector * lanes, long(1), lanes)]
