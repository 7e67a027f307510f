"""The loop nest of `nbits.compute.matmul` for CPUs.

Few rows are multiplied by integers that become floats in registers, so that only their bits come from memory:

    x (s (q - z)) summed over a group  =  s (sum x q - z sum x)

For many rows, each panel of a few hundred rows of the matrix is first made floats in a buffer that stays in cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common import nest
from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.nest import Fused
from graphopt.targets.tvm.kernels.common.statements import pieces
from graphopt.targets.tvm.kernels.nbits.compute import KERNEL, from_numbers, integer_place
from graphopt.targets.tvm.kernels.nbits.plan import MIDDLE, Layout
from graphopt.targets.tvm.machine import Machine

FEW_ROWS = 4
"""The number of rows up to which integers become floats again for each tile of rows."""
DEPTH = 256
"""The approximate rows of the matrix that are floats at a time."""
BLOCK_ROWS = 128
"""The number of rows of data whose sums are kept while the matrix passes by."""


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc | None:
    """Return the loop nest for a function whose anchor is `matmul`; None for any other function."""
    fused = nest.take_apart(func, KERNEL, machine)
    if fused is None:
        return None
    workload, plan = from_numbers(fused.plan())
    made = nest.put_together(fused, _Nest(fused, Layout(workload, plan)).emit)
    text = f"matmul by {workload.bits} bits in groups of {workload.block}"
    return made.with_attr("graphopt.schedule", text)


@dataclass(frozen=True)
class _Nest:
    """Emits one matmul."""

    fused: Fused
    layout: Layout

    @property
    def data(self) -> Any:
        return self.fused.inputs[0]

    @property
    def weight(self) -> Any:
        return self.fused.inputs[1]

    def emit(self) -> None:
        rows, panels = self.fused.shape[0], self.layout.panels
        known = facts.extent(rows)
        if known is not None and known <= FEW_ROWS:
            with nest.spread(panels, self.layout.workload.flops) as panel:
                self._few(panel, long(0), known)
            return
        chunks = (rows + (BLOCK_ROWS - 1)) // BLOCK_ROWS
        with nest.parallel(chunks * panels) as index:
            panel, first = index % panels, index // panels * BLOCK_ROWS
            count = T.min(long(BLOCK_ROWS), rows - first)
            if known is None:
                with T.If(count <= FEW_ROWS):
                    with T.Then(), nest.serial(count) as row:
                        self._few(panel, first + row, 1)
                    with T.Else():
                        self._many(panel, first, count)
            else:
                self._many(panel, first, count if known % BLOCK_ROWS else long(BLOCK_ROWS))

    # --- few rows

    def _few(self, panel: Any, first: Any, rows: int) -> None:
        """Emit `rows` rows from `first`: sums of each group in registers, scaled and added up."""
        work, plan = self.layout.workload, self.layout.plan
        totals = self._sums(rows * plan.vectors)
        full, rest = divmod(work.k, work.block)
        with nest.serial(full) as group:
            self._group(panel, group, work.block, first, rows, totals)
        if rest:
            self._group(panel, long(full), rest, first, rows, totals)
        for row in range(rows):
            start = row * plan.width
            self._store(panel, first + row, functools.partial(_read, totals, plan.lanes, start))

    def _group(self, panel: Any, group: Any, depth: int, first: Any, rows: int, totals: Any) -> None:
        work, plan, lanes = self.layout.workload, self.layout.plan, self.layout.plan.lanes
        start = (panel * work.groups + group) * self.layout.group
        sums, data_sums = self._sums(rows * plan.vectors), self._sums(rows)

        def add(k: Any, part: int) -> None:
            for row in range(rows):
                x = tirx.Broadcast(self.data[first + row, group * work.block + k], lanes)
                self._add(data_sums, row * lanes, x)
                for vector in range(plan.vectors):
                    self._add(sums, _at(plan, row, vector), x * self._integers(start, k, part, vector))

        self._over_rows(depth, add)
        for row in range(rows):
            for vector in range(plan.vectors):
                at, scale, zero = _at(plan, row, vector), self._scale(start, vector), self._zero(start, vector)
                self._add(
                    totals, at, scale * (_vector(sums, at, lanes) - zero * _vector(data_sums, row * lanes, lanes))
                )

    def _over_rows(self, depth: int, add: Callable[[Any, int], None]) -> None:
        """Emit `add(row, half)` for the rows of a group; two rows of 4 bits are in the halves of the same bytes."""
        if self.layout.workload.bits == 8:
            with nest.serial(depth) as k:
                add(k, 0)
            return
        with nest.serial(depth // 2) as pair:
            add(pair * 2, 0)
            add(pair * 2 + 1, 1)
        if depth % 2:
            add(long(depth - 1), 0)

    # --- many rows

    def _many(self, panel: Any, first: Any, count: Any) -> None:
        """Emit up to BLOCK_ROWS rows: part after part of the matrix as floats, times all of these rows."""
        work, plan = self.layout.workload, self.layout.plan
        groups = max(1, DEPTH // work.block)
        depth = min(groups * work.block, work.k)
        floats = T.alloc_buffer((depth, plan.width), "float32")
        totals = T.alloc_buffer((BLOCK_ROWS, plan.width), "float32")
        with nest.serial(count) as row, nest.serial(plan.vectors) as vector:
            place = [row, tirx.Ramp(vector * plan.lanes, long(1), plan.lanes)]
            T.buffer_store(totals, tirx.Broadcast(tirx.const(0.0, "float32"), plan.lanes), place)
        whole, rest = divmod(work.k, depth)
        with nest.serial(whole) as part:
            self._part(panel, part * groups, depth, first, count, floats, totals)
        if rest:
            self._part(panel, long(whole * groups), rest, first, count, floats, totals)
        with nest.serial(count) as row:
            self._store(panel, first + row, lambda vector, lane: totals[row, long(vector * plan.lanes) + lane])

    def _part(self, panel: Any, group: Any, depth: int, first: Any, count: Any, floats: Any, totals: Any) -> None:
        work, plan = self.layout.workload, self.layout.plan
        full, rest = divmod(depth, work.block)
        with nest.serial(full) as index:
            self._decode(panel, group + index, index * work.block, work.block, floats)
        if rest:
            self._decode(panel, group + full, long(full * work.block), rest, floats)
        tiles = count // plan.rows
        start = group * work.block
        with nest.serial(tiles) as tile:
            self._tile(first, tile * plan.rows, plan.rows, start, depth, floats, totals)
        with nest.serial(count - tiles * plan.rows) as row:
            self._tile(first, tiles * plan.rows + row, 1, start, depth, floats, totals)

    def _decode(self, panel: Any, group: Any, row: Any, depth: int, floats: Any) -> None:
        """Emit the conversion of a group to floats, from `row` of the buffer on."""
        plan = self.layout.plan
        start = (panel * self.layout.workload.groups + group) * self.layout.group

        def store(k: Any, part: int) -> None:
            for vector in range(plan.vectors):
                value = self._integers(start, k, part, vector) - self._zero(start, vector)
                place = [row + k, tirx.Ramp(long(vector * plan.lanes), long(1), plan.lanes)]
                T.buffer_store(floats, self._scale(start, vector) * value, place)

        self._over_rows(depth, store)

    def _tile(self, first: Any, row: Any, rows: int, start: Any, depth: int, floats: Any, totals: Any) -> None:
        plan = self.layout.plan
        sums = self._sums(rows * plan.vectors)
        with nest.serial(depth) as k:
            for r in range(rows):
                x = tirx.Broadcast(self.data[first + row + r, start + k], plan.lanes)
                for vector in range(plan.vectors):
                    weight = floats[k, tirx.Ramp(long(vector * plan.lanes), long(1), plan.lanes)]
                    self._add(sums, _at(plan, r, vector), x * weight)
        for r in range(rows):
            for vector in range(plan.vectors):
                place = [row + r, tirx.Ramp(long(vector * plan.lanes), long(1), plan.lanes)]
                T.buffer_store(totals, totals[tuple(place)] + _vector(sums, _at(plan, r, vector), plan.lanes), place)

    # --- pieces

    def _sums(self, vectors: int) -> Any:
        """Return a buffer of vectors that are 0 and stay in registers."""
        lanes = self.layout.plan.lanes
        sums = T.alloc_buffer((vectors * lanes,), "float32", scope="local")
        for vector in range(vectors):
            zero = tirx.Broadcast(tirx.const(0.0, "float32"), lanes)
            T.buffer_store(sums, zero, [tirx.Ramp(long(vector * lanes), long(1), lanes)])
        return sums

    def _add(self, sums: Any, at: int, value: Any) -> None:
        lanes = self.layout.plan.lanes
        T.buffer_store(sums, _vector(sums, at, lanes) + value, [tirx.Ramp(long(at), long(1), lanes)])

    def _integers(self, start: Any, k: Any, half: int, vector: int) -> Any:
        """Return a vector of the integers of row `k` of the group at `start`, as floats."""
        lanes = self.layout.plan.lanes
        place = start + integer_place(self.layout, k) + vector * lanes
        number = self.weight[tirx.Ramp(place, long(1), lanes)].astype(f"int32x{lanes}")
        if self.layout.workload.bits == 4:
            number = number >> 4 if half else number & 15
        return number.astype(f"float32x{lanes}")

    def _scale(self, start: Any, vector: int) -> Any:
        return self._floats(start + vector * (4 * self.layout.plan.lanes))

    def _zero(self, start: Any, vector: int) -> Any:
        work, plan = self.layout.workload, self.layout.plan
        if not work.zeros:
            return tirx.Broadcast(tirx.const(float(MIDDLE[work.bits]), "float32"), plan.lanes)
        return self._floats(start + 4 * (plan.width + vector * plan.lanes))

    def _floats(self, place: Any) -> Any:
        lanes = self.layout.plan.lanes
        return tirx.reinterpret(f"float32x{lanes}", self.weight[tirx.Ramp(place, long(1), 4 * lanes)])

    def _store(self, panel: Any, row: Any, value: Callable[[int, Any], Any]) -> None:
        """Emit the epilogue of a row of a panel; the last panel may have fewer columns."""
        plan = self.layout.plan
        full, rest = divmod(self.layout.workload.n, plan.width)

        def emit(columns: int) -> None:
            for offset, lanes in pieces(columns, plan.lanes):
                vector, within = divmod(offset, plan.lanes)
                with nest.vectorized(lanes) as lane:
                    column = panel * plan.width + offset + lane
                    self.fused.store([row, column], value(vector, within + lane))

        if not rest or not full:
            emit(rest or plan.width)
            return
        with T.If(panel < full):
            with T.Then():
                emit(plan.width)
            with T.Else():
                emit(rest)


def _read(totals: Any, lanes: int, start: int, vector: int, lane: Any) -> Any:
    return totals[start + vector * lanes + lane]


def _at(plan: Any, row: int, vector: int) -> int:
    return (row * plan.vectors + vector) * plan.lanes


def _vector(buffer: Any, at: int, lanes: int) -> Any:
    return buffer[tirx.Ramp(long(at), long(1), lanes)]
