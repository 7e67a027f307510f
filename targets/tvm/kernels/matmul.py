"""Matrix products: (..., M, K) by (..., K, N), batch dimensions broadcast as in numpy.

For a frontend:

    plan = plan_matmul(m, n, k, "float32", machine_of(target))      # None for an extent not known
    packed = pack_matrix(weight, plan)                    # numpy K x N, at compile time; N and K known
    out = emit_matmul_packed(builder, a, packed_expr, plan)         # relax: (..., M, N)
    out = emit_matmul(builder, a, b, plan, transpose_b=False)       # both known only at run time

Bias, residual and activation emitted next are fused. The right operand is read in panels of one vector of columns,
(N / lanes, K, lanes); a tile of `rows` x `panels` accumulators stays in registers over the whole of K. The rows of a
tile beyond M read row M - 1 again and are not stored, so M may be symbolic; with `transpose_b` the operand comes
as (..., N, K). fp16 and bf16 are summed in fp32, 8- and 16-bit integers in int32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from graphopt.targets.tvm.kernels.conv import OUT_EWISE_FUSABLE, accumulator, long, reduce_axis, simplified
from graphopt.targets.tvm.machine import Machine


@dataclass(frozen=True)
class MatmulPlan:
    """How a matrix product is computed."""

    m: int | None
    n: int | None
    k: int | None
    lanes: int
    """Columns of a panel: elements of a vector of accumulators."""
    rows: int
    """Rows of a register tile."""
    panels: int
    """Panels of a register tile."""
    accumulate: str

    @property
    def packed_shape(self) -> tuple[int, int, int]:
        """Shape of a packed constant; N and K must be known."""
        assert self.n is not None
        assert self.k is not None
        return (-(-self.n // self.lanes), self.k, self.lanes)


def plan_matmul(m: int | None, n: int | None, k: int | None, dtype: str, machine: Machine) -> MatmulPlan:
    """The tile with the fewest operand loads per multiply-add that fits the registers and wastes few rows."""
    acc = accumulator(dtype)
    lanes = machine.lanes(acc)
    if n is not None and 0 < n < lanes:
        lanes = 1 << (n - 1).bit_length()
    count = None if n is None else max(1, -(-n // lanes))
    best: tuple[float, int, int] = (float("inf"), 1, 1)
    for rows in range(1, 13):
        for panels in (1, 2, 3, 4, 6, 8):
            if rows * panels > machine.accumulators or (count is not None and count % panels):
                continue
            if count is None and panels > 2:
                continue
            if (m is not None and rows > m) or (m is None and rows > 4):
                continue
            waste = 1.0 if not m else -(-m // rows) * rows / m
            loads = (rows + panels) / (rows * panels)
            stall = max(1.0, 8 / (rows * panels))
            cost = waste * max(1.0, loads) * stall
            best = min(best, (cost, -rows * panels, panels))
    return MatmulPlan(m, n, k, lanes, -best[1] // best[2] if best[0] < float("inf") else 1, best[2], acc)


def pack_matrix(matrix: np.ndarray, plan: MatmulPlan) -> np.ndarray:
    """`matrix` (K, N) in panels: (ceil(N / lanes), K, lanes); missing columns are zero."""
    panels, k, lanes = plan.packed_shape
    padded = np.pad(matrix, [(0, 0), (0, panels * lanes - matrix.shape[1])])
    return np.ascontiguousarray(padded.reshape(k, panels, lanes).transpose(1, 0, 2))


def matmul_packed(a: te.Tensor, packed: te.Tensor, plan: MatmulPlan) -> te.Tensor:
    """`a` (..., M, K) by a matrix packed by `pack_matrix`: (..., M, N) of the type of `a`."""
    assert plan.n is not None
    batch = list(a.shape[:-2])
    return _product(a, batch, plan, long(plan.n), lambda _batch, panel, k, lane: packed(panel, k, lane), len(batch))


def matmul(a: te.Tensor, b: te.Tensor, plan: MatmulPlan, transpose_b: bool = False) -> te.Tensor:
    """`a` (..., M, K) by `b` (..., K, N), or (..., N, K) with `transpose_b`: (..., M, N) of the type of `a`."""
    columns, lanes = b.shape[-2 if transpose_b else -1], plan.lanes
    shape = [*b.shape[:-2], (columns + lanes - 1) // lanes, b.shape[-1 if transpose_b else -2], lanes]
    exact = isinstance(columns, tirx.IntImm) and int(columns) % lanes == 0
    rank = max(len(a.shape), len(b.shape)) - 2
    batch = _broadcast(list(a.shape[:-2]), list(b.shape[:-2]))

    def element(*index: Any) -> Any:
        *outer, panel, k, lane = index
        column = panel * lanes + lane
        value = b(*outer, column, k) if transpose_b else b(*outer, k, column)
        return value if exact else tirx.if_then_else(column < columns, value, tirx.const(0, b.dtype))

    panels = te.compute([simplified(size) for size in shape], element, name="pack")
    return _product(
        a,
        batch,
        plan,
        columns,
        lambda outer, panel, k, lane: panels(*_aligned(outer, b.shape[:-2]), panel, k, lane),
        rank,
    )


def _broadcast(left: list[Any], right: list[Any]) -> list[Any]:
    """Batch dimensions of the result."""
    rank = max(len(left), len(right))
    left, right = [1] * (rank - len(left)) + left, [1] * (rank - len(right)) + right
    return [r if _is_one(x) else x for x, r in zip(left, right, strict=True)]


def _is_one(size: Any) -> bool:
    return isinstance(size, int | tirx.IntImm) and int(size) == 1


def _aligned(index: Sequence[Any], shape: Sequence[Any]) -> list[Any]:
    """The batch index of an operand with these batch dimensions: the trailing ones, 0 where it is broadcast."""
    own = index[len(index) - len(shape) :]
    return [0 if _is_one(size) else i for i, size in zip(own, shape, strict=True)]


def _product(
    a: te.Tensor,
    batch: list[Any],
    plan: MatmulPlan,
    columns: Any,
    right: Callable[[Sequence[Any], Any, Any, Any], Any],
    rank: int,
) -> te.Tensor:
    m, k = a.shape[-2], a.shape[-1]
    tiles, panels = (m + plan.rows - 1) // plan.rows, (columns + plan.lanes - 1) // plan.lanes
    inner = reduce_axis(k, "k")
    whole = isinstance(m, tirx.IntImm) and int(m) % plan.rows == 0

    def product(*index: Any) -> Any:
        *outer, tile, panel, i, lane = index
        row = tile * plan.rows + i
        row = row if whole else tirx.min(row, m - 1)
        value = a(*_aligned(outer, a.shape[:-2]), row, inner).astype(plan.accumulate)
        return te.sum(value * right(outer, panel, inner, lane).astype(plan.accumulate), axis=inner)

    anchor = te.compute(
        [simplified(size) for size in (*batch, tiles, panels, plan.rows, plan.lanes)],
        product,
        name="matmul",
        attrs={"kernel": "matmul", "tile": [plan.rows, plan.panels, plan.lanes]},
    )

    def out(*index: Any) -> Any:
        *outer, row, column = index
        place = (row // plan.rows, column // plan.lanes, row % plan.rows, column % plan.lanes)
        return anchor(*outer, *place).astype(a.dtype)

    return te.compute([simplified(size) for size in (*batch, m, columns)], out, name="matmul_out")


def _call(builder: relax.BlockBuilder, compute: Callable[..., te.Tensor], *args: relax.Expr) -> relax.Call:
    return builder.call_te(
        compute, *args, primfunc_name_hint="matmul", primfunc_attrs={"op_pattern": OUT_EWISE_FUSABLE}
    )


def call_matmul_packed(builder: relax.BlockBuilder, a: relax.Expr, packed: relax.Expr, plan: MatmulPlan) -> relax.Call:
    """`matmul_packed` on relax expressions, not yet bound to a variable."""
    return _call(builder, lambda x, w: matmul_packed(x, w, plan), a, packed)


def call_matmul(
    builder: relax.BlockBuilder, a: relax.Expr, b: relax.Expr, plan: MatmulPlan, transpose_b: bool = False
) -> relax.Call:
    """`matmul` on relax expressions, not yet bound to a variable."""
    return _call(builder, lambda x, y: matmul(x, y, plan, transpose_b), a, b)


def emit_matmul_packed(builder: relax.BlockBuilder, a: relax.Expr, packed: relax.Expr, plan: MatmulPlan) -> relax.Var:
    """Emit `matmul_packed`; elementwise operators emitted next are fused into it."""
    return builder.emit(call_matmul_packed(builder, a, packed, plan))


def emit_matmul(
    builder: relax.BlockBuilder, a: relax.Expr, b: relax.Expr, plan: MatmulPlan, transpose_b: bool = False
) -> relax.Var:
    """Emit `matmul`; elementwise operators emitted next are fused into it."""
    return builder.emit(call_matmul(builder, a, b, plan, transpose_b))
