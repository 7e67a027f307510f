"""A few rows of data by a panel of the matrix, whose integers become floats, or bytes, in registers.

Only the bits come from memory. The sums of a group are scaled, and added to the totals of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphopt.targets.tvm.kernels.common import nest
from graphopt.targets.tvm.kernels.common.dot import Dot
from graphopt.targets.tvm.kernels.nbits.data import Data
from graphopt.targets.tvm.kernels.nbits.plan import Layout
from graphopt.targets.tvm.kernels.nbits.vectors import Matrix, Sums, spread

_IN_REGISTERS = 4
"""The totals up to which there are registers for them in addition to the sums of a group."""


@dataclass(frozen=True)
class FewRows:
    """Emits the totals of `rows` rows from `first` of the prepared data."""

    matrix: Matrix
    data: Data
    dot: Dot
    rows: int

    @property
    def layout(self) -> Layout:
        return self.matrix.layout

    def totals(self, panel: Any, first: Any) -> Sums:
        """Return the totals: row by row, as many vectors as a panel has."""
        plan = self.layout.plan
        count = self.rows * plan.vectors
        totals = Sums(count, plan.lanes, "float32", "local" if count <= _IN_REGISTERS else "global")
        totals.clear()
        with nest.serial(self.layout.workload.groups) as group:
            if self.data.rounded:
                self._bytes(panel, first, group, totals)
            else:
                self._floats(panel, first, group, totals)
        return totals

    def _floats(self, panel: Any, first: Any, group: Any, totals: Sums) -> None:
        plan, layout = self.layout.plan, self.layout
        start = self.matrix.start(panel, group)
        sums = Sums(totals.count, plan.lanes, "float32")
        sums.clear()
        self.matrix.fetch(start, 0, layout.head)
        with nest.serial(layout.words) as word:
            self.matrix.fetch(start, layout.head + word * (4 * plan.width), 4 * plan.width)
            words = [nest.stored(self.matrix.words(start, word, vector)) for vector in range(plan.vectors)]
            for place in range(layout.per):
                for vector in range(plan.vectors):
                    weight = self.matrix.in_place(words[vector], place)
                    for row in range(self.rows):
                        x = self.data.value(first + row, group, word * layout.per + place)
                        at = row * plan.vectors + vector
                        sums[at] = sums[at] + spread(x, plan.lanes) * weight
        for row in range(self.rows):
            total = spread(self.data.sums[first + row, group], plan.lanes)
            for vector in range(plan.vectors):
                at = row * plan.vectors + vector
                scale, zero = self.matrix.scale(start, vector), self.matrix.zero(start, vector)
                totals[at] = totals[at] + scale * (sums[at] - zero * total)

    def _bytes(self, panel: Any, first: Any, group: Any, totals: Sums) -> None:
        plan, layout, work = self.layout.plan, self.layout, self.layout.workload
        start = self.matrix.start(panel, group)
        sums = Sums(totals.count, plan.lanes, "int32")
        for at in range(totals.count):
            sums[at] = self.data.initial(first + at // plan.vectors, group)
        self.matrix.fetch(start, 0, layout.head)
        with nest.serial(layout.words) as word:
            self.matrix.fetch(start, layout.head + word * (4 * plan.width), 4 * plan.width)
            words = [nest.stored(self.matrix.words(start, word, vector)) for vector in range(plan.vectors)]
            for part in range(8 // work.bits):
                for row in range(self.rows):
                    x = self.data.four(first + row, group, word * layout.per + part * 4)
                    for vector in range(plan.vectors):
                        at = row * plan.vectors + vector
                        sums[at] = self.dot.products(sums[at], self.matrix.four_rows(words[vector], part), x)
        for at in range(totals.count):
            row, vector = divmod(at, plan.vectors)
            totals[at] = totals[at] + self.data.scaled(start, vector, first + row, group, sums[at])
