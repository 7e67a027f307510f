"""Workload and plan of a matmul by a matrix of few bits, and the layout of that matrix.

The matrix (K, N) has a scale, and perhaps a zero point, for each group of `block` rows of each column:

    w[k, n] = scale[k // block, n] * (q[k, n] - zero[k // block, n])
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.targets.tvm.kernels.common.dot import INTEGER, NAMES, dot_for
from graphopt.targets.tvm.kernels.family import Dtypes, Workload
from graphopt.targets.tvm.machine import Machine

DTYPES = Dtypes("float32", "uint8", "float32", "float32")
MIDDLE = {2: 2, 4: 8, 8: 128}
"""The zero point where none is stored, by the number of bits."""
VECTORS = 4
"""The vectors of columns in a panel: as many sums hide the latency of a multiply-add."""
TILE_VECTORS = 2
"""The vectors of columns in a register tile of many rows, whose height halves what it reads of the matrix."""
LARGEST_BLOCK = 256
"""The largest group whose data are rounded together: ONNX Runtime has no larger ones."""


@dataclass(frozen=True)
class NBitsWorkload(Workload):
    """A matmul of (m, k) floats by (k, n) integers of `bits` bits, in groups of `block` rows; `m` None if unknown.

    `zeros`: whether zero points are stored; otherwise all are in the middle of the range. `rounded`: whether the model
    permits that the data are rounded to 8 bits, with a scale for each group of each row.
    """

    m: int | None
    n: int
    k: int
    bits: int
    block: int
    zeros: bool
    rounded: bool = False
    dtypes: Dtypes = DTYPES

    @property
    def key(self) -> str:
        """See `Workload.key`."""
        marks = {" zeros": self.zeros, " rounded": self.rounded}
        text = "".join(mark for mark, is_set in marks.items() if is_set)
        return f"nbits m{self.m or '?'} n{self.n} k{self.k} b{self.bits} g{self.block}{text}"

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
    """The lanes of a vector of sums, the vectors of a panel, the rows of a register tile, and how it multiplies.

    `way`: the position in `dot.NAMES` of the instruction for rounded data; that of "fma" multiplies floats.
    """

    lanes: int
    vectors: int
    rows: int
    way: int = 0

    @property
    def width(self) -> int:
        """The number of columns of a panel."""
        return self.lanes * self.vectors


@dataclass(frozen=True)
class Layout:
    """Where everything is in the packed matrix: panel by panel and group by group, in the order in which it is read.

    A group begins with the scales of the panel's columns, and their zero points if there are any, as float32. Its
    integers follow: each column has words of 32 bits, with `per` rows in a word. Rows of zeros fill the last word, and
    the last group. The first four rows of a word are the lowest bits of its bytes, the next four the bits above them:

        row          0  1  2  3     4  5  6  7
        first bit    0  8 16 24     4 12 20 28        (4 bits)
    """

    workload: NBitsWorkload
    plan: NBitsPlan

    @property
    def panels(self) -> int:
        return -(-self.workload.n // self.plan.width)

    @property
    def per(self) -> int:
        """The integers of a word."""
        return 32 // self.workload.bits

    @property
    def words(self) -> int:
        """The words of a column in a group."""
        return -(-self.workload.block // self.per)

    @property
    def rows(self) -> int:
        """The rows of a group, with those that fill its last word."""
        return self.words * self.per

    @property
    def head(self) -> int:
        """The bytes before the integers of a group."""
        return 4 * self.plan.width * (2 if self.workload.zeros else 1)

    @property
    def group(self) -> int:
        """The bytes of a group."""
        return self.head + 4 * self.plan.width * self.words

    @property
    def size(self) -> int:
        return self.panels * self.workload.groups * self.group

    def first_bit(self, row: int) -> int:
        """Return the place of a row's integers in their words."""
        row %= self.per
        return row % 4 * 8 + row // 4 * self.workload.bits


def plan_nbits(workload: NBitsWorkload, machine: Machine) -> NBitsPlan:
    """Return as many vectors as a panel needs, and the rows that leave registers for the operands."""
    lanes = machine.lanes("float32")
    vectors = next(count for count in (1, 2, VECTORS) if count == VECTORS or count * lanes >= workload.n)
    dot = dot_for(INTEGER, lanes, machine)
    is_rounded = workload.rounded and workload.block <= LARGEST_BLOCK and dot.width == 4
    rows = machine.accumulators // min(vectors, TILE_VECTORS)
    return NBitsPlan(lanes, vectors, min(rows, workload.m or rows), NAMES.index(dot.name if is_rounded else "fma"))
