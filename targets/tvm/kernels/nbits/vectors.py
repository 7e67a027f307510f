"""Vectors of sums in registers, and vectors read from a packed matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common import nest
from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.statements import FIRST_LEVEL
from graphopt.targets.tvm.kernels.matmul.plan import LINE_BYTES
from graphopt.targets.tvm.kernels.nbits.plan import MIDDLE, Layout

AHEAD = 4096
"""The bytes of a matrix between what is read and what is prefetched: too few lines are underway otherwise."""


class Sums:
    """Some vectors that a loop nest adds to; those of the scope "local" stay in registers."""

    def __init__(self, count: int, lanes: int, dtype: str, scope: str = "local") -> None:
        self.lanes = lanes
        self.dtype = dtype
        self.buffer = T.alloc_buffer((count * lanes,), dtype, scope=scope)
        self.count = count

    def __getitem__(self, index: int) -> Any:
        return self.buffer[tirx.Ramp(long(index * self.lanes), long(1), self.lanes)]

    def __setitem__(self, index: int, value: Any) -> None:
        T.buffer_store(self.buffer, value, [tirx.Ramp(long(index * self.lanes), long(1), self.lanes)])

    def clear(self) -> None:
        for index in range(self.count):
            self[index] = spread(tirx.const(0, self.dtype), self.lanes)

    def lane(self, index: int, lane: Any) -> Any:
        """Return one element of a vector."""
        return self.buffer[long(index * self.lanes) + lane]

    def lane_of(self, first: int, index: int, lane: Any) -> Any:
        """Return one element of a vector, counted from `first`."""
        return self.lane(first + index, lane)


def spread(value: Any, lanes: int) -> Any:
    """Return a vector of equal elements."""
    return tirx.Broadcast(value, lanes)


@dataclass(frozen=True)
class Matrix:
    """A packed matrix in memory, read a vector of columns at a time."""

    layout: Layout
    memory: Any

    def start(self, panel: Any, group: Any) -> Any:
        """Return the place of the first byte of a group."""
        return (panel * self.layout.workload.groups + group) * self.layout.group

    def fetch(self, start: Any, first: Any, size: int) -> None:
        """Emit the prefetches of `size` bytes that are read some time after those from `first` in a group."""
        for line in range(0, size, LINE_BYTES):
            nest.prefetch(self.memory, [start + first + (AHEAD + line)], FIRST_LEVEL)

    def words(self, start: Any, word: Any, vector: Any) -> Any:
        """Return the words of a vector of columns in the group at `start`, as uint32."""
        plan = self.layout.plan
        return self._read("uint32", start + self.layout.head + (word * plan.width + vector * plan.lanes) * 4)

    def scale(self, start: Any, vector: Any) -> Any:
        return self._read("float32", start + vector * (4 * self.layout.plan.lanes))

    def zero(self, start: Any, vector: Any) -> Any:
        plan, work = self.layout.plan, self.layout.workload
        if not work.zeros:
            return spread(tirx.const(float(MIDDLE[work.bits]), "float32"), plan.lanes)
        return self._read("float32", start + 4 * (plan.width + vector * plan.lanes))

    def in_place(self, words: Any, row: int) -> Any:
        """Return a row of a vector of words as floats, times `weight_of(row)`: one operation, and a conversion."""
        first, bits = self.layout.first_bit(row), self.layout.workload.bits
        last = first + bits == 32  # becomes an unsigned number by a shift, and others by a mask
        number = words >> self._number(first) if last else words & self._number((1 << bits) - 1 << first)
        return self._to_float(number)

    def weight_of(self, row: int) -> float:
        """Return the factor in `in_place`, a power of two."""
        first = self.layout.first_bit(row)
        return 1.0 if first + self.layout.workload.bits == 32 else 2.0**first

    def integers(self, words: Any, row: int) -> Any:
        """Return a row of a vector of words as floats."""
        mask = self._number((1 << self.layout.workload.bits) - 1)
        return self._to_float(words >> self._number(self.layout.first_bit(row)) & mask)

    def four_rows(self, words: Any, part: int) -> Any:
        """Return the rows from `4 * part` on of a vector of words, as four bytes for each column."""
        bits, lanes = self.layout.workload.bits, self.layout.plan.lanes
        each = ((1 << bits) - 1) * 0x01010101
        kept = words if bits == 8 else words >> self._number(bits * part) & self._number(each)
        return tirx.reinterpret(f"uint8x{4 * lanes}", kept)

    def _number(self, value: int) -> Any:
        return spread(tirx.const(value, "uint32"), self.layout.plan.lanes)

    def _to_float(self, number: Any) -> Any:
        lanes = self.layout.plan.lanes
        return number.astype(f"int32x{lanes}").astype(f"float32x{lanes}")

    def _read(self, kind: str, place: Any) -> Any:
        lanes = self.layout.plan.lanes
        return tirx.reinterpret(f"{kind}x{lanes}", self.memory[tirx.Ramp(place, long(1), 4 * lanes)])
