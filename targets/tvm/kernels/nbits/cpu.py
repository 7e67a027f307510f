"""The loop nest of `nbits.compute.matmul` for CPUs.

Few rows are multiplied by integers that become floats in registers, so that only their bits come from memory. For many
rows, each panel of a few hundred rows of the matrix is first unpacked in a buffer that stays in cache. Where the model
permits it and the processor multiplies bytes, the data are rounded to 8 bits before.
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
from graphopt.targets.tvm.kernels.common.dot import NAMES, Dot
from graphopt.targets.tvm.kernels.common.nest import Fused
from graphopt.targets.tvm.kernels.common.statements import pieces
from graphopt.targets.tvm.kernels.nbits.compute import KERNEL, from_numbers
from graphopt.targets.tvm.kernels.nbits.data import Data
from graphopt.targets.tvm.kernels.nbits.few import FewRows
from graphopt.targets.tvm.kernels.nbits.many import BLOCK_ROWS, ManyRows
from graphopt.targets.tvm.kernels.nbits.plan import Layout
from graphopt.targets.tvm.kernels.nbits.vectors import Matrix
from graphopt.targets.tvm.machine import Machine

FEW_ROWS = 4
"""The number of rows up to which integers become floats again for each tile of rows."""


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc | None:
    """Return the loop nest for a function whose anchor is `matmul`; None for any other function."""
    fused = nest.take_apart(func, KERNEL, machine)
    if fused is None:
        return None
    layout = from_numbers(fused.plan())
    emitter = _Nest(fused, Matrix(layout, fused.inputs[1]), Dot(NAMES[layout.plan.way], layout.plan.lanes))
    made = nest.put_together(fused, emitter.emit)
    rounded = f", data rounded to bytes ({emitter.dot.name})" if emitter.is_rounded else ""
    text = f"matmul by {layout.workload.bits} bits in groups of {layout.workload.block}{rounded}"
    return made.with_attr("graphopt.schedule", text)


@dataclass(frozen=True)
class _Nest:
    """Emits one matmul."""

    fused: Fused
    matrix: Matrix
    dot: Dot

    @property
    def layout(self) -> Layout:
        return self.matrix.layout

    @property
    def is_rounded(self) -> bool:
        return self.dot.width == 4

    def emit(self) -> None:
        rows = self.fused.shape[0]
        known = facts.extent(rows)
        if known is not None and known <= FEW_ROWS:
            self._few(self._prepared(long(known)), known)
            return
        data = self._prepared(rows) if self.is_rounded else None
        if known is not None:
            self._many(data, rows, known)
            return
        with T.If(rows <= FEW_ROWS):
            with T.Then():
                self._few(data or self._prepared(rows), None)
            with T.Else():
                self._many(data, rows, None)

    def _prepared(self, rows: Any) -> Data:
        data = Data(self.fused.inputs[0], self.matrix, rows, rounded=self.is_rounded)
        with nest.spread(rows, rows * self.layout.workload.k) as row:
            data.prepare(row)
        return data

    def _few(self, data: Data, rows: int | None) -> None:
        """Emit the panels for few rows: for a known number of them together."""
        few = FewRows(self.matrix, data, self.dot, rows or 1)

        def tile(panel: Any, first: Any) -> None:
            totals = few.totals(panel, first)
            for row in range(few.rows):
                self._store(panel, first + row, functools.partial(totals.lane_of, row * self.layout.plan.vectors))

        with nest.spread(self.layout.panels, self.layout.workload.flops) as panel:
            if rows is not None:
                tile(panel, long(0))
                return
            with nest.serial(self.fused.shape[0]) as row:
                tile(panel, row)

    def _many(self, data: Data | None, rows: Any, known: int | None) -> None:
        many = ManyRows(self.matrix, self.fused.inputs[0], data, self.dot)
        panels = self.layout.panels
        chunks = (rows + (BLOCK_ROWS - 1)) // BLOCK_ROWS
        with nest.parallel(chunks * panels) as index:
            panel, first = index % panels, index // panels * BLOCK_ROWS
            exact = known is not None and known % BLOCK_ROWS == 0
            count = long(BLOCK_ROWS) if exact else T.min(long(BLOCK_ROWS), rows - first)
            totals = many.totals(panel, first, count)
            lanes = self.layout.plan.lanes
            with nest.serial(count) as row:
                self._store(panel, first + row, lambda vector, lane: totals[row, long(vector * lanes) + lane])

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
