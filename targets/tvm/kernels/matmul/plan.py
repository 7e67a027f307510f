"""Plans of a matmul: the register tile and the cache blocks, for a size and a machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import tvm_ffi

from graphopt.targets.tvm.kernels.common.dot import NAMES, Dot, dot_for
from graphopt.targets.tvm.kernels.family import Dtypes, Workload
from graphopt.targets.tvm.machine import Machine

PANEL_BYTES = 192 << 10
"""The bytes of the right matrix that should stay in the L2 cache while row tiles use them."""
LINE_BYTES = 64
SPARE_REGISTERS = 1
"""Registers in addition to the sums and operands of a tile: with none left, operands are not loaded ahead."""
BLOCK_ROWS = 128
"""The number of rows that a job computes before it continues with the next part of the right matrix."""
LOAD, LATENCY = 0.5, 4.0
"""Cycles per vector load or multiply-add with two units each, and the latency of a multiply-add."""


@dataclass(frozen=True)
class MatmulWorkload(Workload):
    """A matmul of (..., m, k) by (..., k, n): sizes (None if unknown) and element types.

    `packed`: the right matrix is a constant, packed when the model is compiled. With `transpose_a` or `transpose_b` an
    operand is given as (..., k, m) or (..., n, k); a packed one is never transposed.
    """

    m: int | None
    n: int | None
    k: int | None
    dtypes: Dtypes
    packed: bool = False
    transpose_a: bool = False
    transpose_b: bool = False

    @property
    def key(self) -> str:
        """See `Workload.key`."""
        sizes = " ".join(f"{name}{size or '?'}" for name, size in zip("mnk", (self.m, self.n, self.k), strict=True))
        marks = {"packed": self.packed, "transposed-a": self.transpose_a, "transposed-b": self.transpose_b}
        return " ".join(["matmul", sizes, str(self.dtypes), *(mark for mark, is_set in marks.items() if is_set)])

    @property
    def flops(self) -> int:
        """See `Workload.flops`."""
        return 2 * (self.m or 1) * (self.n or 1) * (self.k or 1)

    @property
    def is_tunable(self) -> bool:
        """See `Workload.is_tunable`; a matrix that is packed at run time is not measured."""
        return self.packed and bool(self.m and self.n and self.k)

    @property
    def data_shape(self) -> tuple[int, ...]:
        """See `Workload.data_shape`."""
        assert self.m is not None
        assert self.k is not None
        return (self.k, self.m) if self.transpose_a else (self.m, self.k)

    @property
    def is_packed(self) -> bool:
        """See `Workload.is_packed`."""
        return self.packed


@dataclass(frozen=True)
class MatmulPlan:
    """The plan of a matmul.

    `lanes`: columns in a vector of accumulators. `rows`, `vectors`: height and width (in vectors) of the register tile.
    `k_block`: how much of K is summed before the next row tile (0: all of it). `m_block`: the approximate rows of a
    job.
    """

    workload: MatmulWorkload
    lanes: int
    rows: int
    vectors: int
    k_block: int
    m_block: int
    way: int = 0
    """The position in `dot.NAMES` of the machine's instruction, of which there is only one for a workload."""

    @property
    def step(self) -> int:
        """The elements of K that a step multiplies."""
        return Dot(NAMES[self.way], self.lanes).width

    @property
    def width(self) -> int:
        """The number of columns of a tile, and of a panel of a packed matrix."""
        return self.lanes * self.vectors

    @property
    def packed_shape(self) -> tuple[int, int, int]:
        """The shape of a packed constant: panels, steps of K, columns of a panel by elements of a step.

        N and K must be known.
        """
        work = self.workload
        assert work.n is not None
        assert work.k is not None
        return (-(-work.n // self.width), -(-work.k // self.step), self.width * self.step)

    @staticmethod
    def default(work: MatmulWorkload, machine: Machine) -> MatmulPlan:
        """Return the tile that needs the fewest cycles by the model of `_cycles`."""
        return next(candidates(work, machine))


def candidates(work: MatmulWorkload, machine: Machine) -> Iterator[MatmulPlan]:
    """Yield the plans worth measuring, the best guess first."""
    lanes = machine.lanes(work.dtypes.accumulator)
    if work.n is not None and 0 < work.n < lanes:
        lanes = 1 << (work.n - 1).bit_length()
    tiles = sorted(_tiles(work, lanes, machine), key=lambda tile: _cycles(work, lanes, *tile))
    way = NAMES.index(dot_for(work.dtypes, lanes, machine).name)
    for rows, vectors in tiles[:4]:
        first = _blocked(MatmulPlan(work, lanes, rows, vectors, 0, BLOCK_ROWS, way))
        yield first
        if first.k_block:
            yield replace(first, k_block=0)


def _tiles(work: MatmulWorkload, lanes: int, machine: Machine) -> Iterator[tuple[int, int]]:
    """Yield rows and vectors of tiles that fit the registers; panels are whole cache lines if N is large enough."""
    columns = 2 if work.n is None else max(1, -(-work.n // lanes))
    line = max(1, LINE_BYTES // (machine.vector_bytes))
    if columns < line:
        line = columns
    accumulators = dot_for(work.dtypes, lanes, machine).accumulators(machine)
    for rows in range(1, min(12, work.m or 4) + 1):
        most = min(columns, accumulators // rows)
        for vectors in range(line, most + 1, line):
            operands = min(rows, vectors) + 1 + SPARE_REGISTERS
            if rows * vectors + operands <= machine.registers or (rows, vectors) == (1, line):
                yield rows, vectors


def _cycles(work: MatmulWorkload, lanes: int, rows: int, vectors: int) -> float:
    """Estimate the cycles for each step of K; if a size is not known, for the tile's share of one large matmul."""

    def tile(height: int, width: int) -> float:
        if not height or not width:
            return 0.0
        # Loads overlap with the sums, and cost little if those take longer; panel loads may come from memory.
        return max(height * width * LOAD, (height + width) * LOAD, LATENCY) + 0.05 * height + 0.15 * width

    m, columns = work.m or rows * 8, vectors * 8 if work.n is None else -(-work.n // lanes)
    panels, rest = divmod(columns, vectors)
    count = -(-m // rows)
    low = m // count
    heights = [(low + 1, m - low * count), (low, count - (m - low * count))]
    cycles = sum(n * (panels * tile(height, vectors) + tile(height, rest)) for height, n in heights)
    return cycles / (m * columns)


def cycles(plan: MatmulPlan) -> float:
    """Estimate the cycles of a plan for each step of K, comparable between plans of one workload."""
    return _cycles(plan.workload, plan.lanes, plan.rows, plan.vectors)


def _blocked(plan: MatmulPlan) -> MatmulPlan:
    """Return the plan with K in blocks, if a panel exceeds the cache and enough row tiles reuse a block."""
    work = plan.workload
    size = tvm_ffi.dtype(work.dtypes.weight).bits // 8
    if work.m is None or work.k is None or work.m <= plan.rows:
        return plan
    blocks = -(-work.k * plan.width * size // PANEL_BYTES)
    steps = -(-work.k // (blocks * plan.step))
    return plan if blocks < 2 else replace(plan, k_block=steps * plan.step)
