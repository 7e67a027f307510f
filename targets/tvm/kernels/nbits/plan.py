"""Workload and plan of a matmul by a matrix of few bits, and the layout of that matrix.

The matrix (K, N) has a scale, and perhaps a zero point, for each group of `block` rows of each column:

    w[k, n] = scale[k // block, n] * (q[k, n] - zero[k // block, n])
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.targets.tvm.kernels.family import Dtypes, Workload
from graphopt.targets.tvm.machine import Machine

DTYPES = Dtypes("float32", "uint8", "float32", "float32")
MIDDLE = {4: 8, 8: 128}
"""The zero point where none is stored, by the number of bits."""
VECTORS = 4
"""The vectors of columns in a panel: as many sums hide the latency of a multiply-add."""


@dataclass(frozen=True)
class NBitsWorkload(Workload):
    """A matmul of (m, k) floats by (k, n) integers of `bits` bits, in groups of `block` rows; `m` None if unknown.

    `zeros`: whether zero points are stored; otherwise all are in the middle of the range.
    """

    m: int | None
    n: int
    k: int
    bits: int
    block: int
    zeros: bool
    dtypes: Dtypes = DTYPES

    @property
    def key(self) -> str:
        """See `Workload.key`."""
        zeros = " zeros" if self.zeros else ""
        return f"nbits m{self.m or '?'} n{self.n} k{self.k} b{self.bits} g{self.block}{zeros}"

    @property
    def flops(self) -> int:
        """See `Workload.flops`."""
        return 2 * (self.m or 1) * self.n * self.k

    @property
    def is_tunable(self) -> bool:
        """See `Workload.is_tunable`."""
        return bool(self.m and self.n and self.k)

    @property
    def data_shape(self) -> tuple[int, ...]:
        """See `Workload.data_shape`."""
        return (self.m or 1, self.k)

    @property
    def groups(self) -> int:
        return -(-self.k // self.block)


@dataclass(frozen=True)
class NBitsPlan:
    """The lanes of a vector of sums, the vectors of a panel, and the rows of a register tile."""

    lanes: int
    vectors: int
    rows: int

    @property
    def width(self) -> int:
        """The number of columns of a panel."""
        return self.lanes * self.vectors


@dataclass(frozen=True)
class Layout:
    """Where everything is in the packed matrix: panel by panel and group by group, in the order in which it is read.

    A group begins with the scales of the panel's columns, and their zero points if there are any, as float32. Its
    integers follow row by row; two rows of 4 bits share bytes, of which the first row has the lower half.
    """

    workload: NBitsWorkload
    plan: NBitsPlan

    @property
    def panels(self) -> int:
        return -(-self.workload.n // self.plan.width)

    @property
    def head(self) -> int:
        """The bytes before the integers of a group."""
        return 4 * self.plan.width * (2 if self.workload.zeros else 1)

    @property
    def group(self) -> int:
        """The bytes of a group; those of the last one are as many, even if it has fewer rows."""
        return self.head + self.rows_bytes(self.workload.block)

    @property
    def size(self) -> int:
        return self.panels * self.workload.groups * self.group

    def rows_bytes(self, rows: int) -> int:
        """Return the bytes of the integers of that many rows."""
        return (-(-rows // 2) if self.workload.bits == 4 else rows) * self.plan.width


def plan_nbits(workload: NBitsWorkload, machine: Machine) -> NBitsPlan:
    """Return as many vectors as a panel needs, and the rows that leave registers for the operands."""
    lanes = machine.lanes("float32")
    vectors = min(VECTORS, -(-workload.n // lanes))
    rows = max(1, machine.accumulators // vectors)
    return NBitsPlan(lanes, vectors, min(rows, workload.m or rows))
