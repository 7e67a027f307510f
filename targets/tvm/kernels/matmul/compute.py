"""Matmuls: (..., M, K) by (..., K, N), batch dimensions broadcast as in numpy.

    plan = MatmulPlan.default(MatmulWorkload(m, n, k, FLOAT32, packed=True), machine)  # None: size not known
    packed = pack_matrix(weight, plan)                    # numpy K x N, at compile time; N and K known
    out = matmul_packed(a, packed_tensor, plan)           # TE: (..., M, N)
    out = matmul(a, b, plan)                              # both known only at run time

Bias, residual and activation that follow are fused. The right operand is read in panels of one tile's columns, (N /
width, K, width); one that is only known at run time is packed first, unless few rows read it. Panels of bytes that are
multiplied several at once hold those of a column side by side: as int32 words where they are packed at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from graphopt.targets.tvm.kernels.common.computes import long, reduce_axis, simplified
from graphopt.targets.tvm.kernels.common.dot import INTEGER
from graphopt.targets.tvm.kernels.matmul.plan import MatmulPlan

Right = Callable[[Sequence[Any], Any, Any], Any]
"""Returns the right operand's element for a batch index, a k and a column."""

DIRECT_ROWS = 12
"""The number of rows up to which a matrix is read unpacked: packing would cost more than it saves."""


PART_BYTES = 8 << 20
"""The approximate number of bytes of a matrix that are packed at once."""


def pack_matrix(matrix: np.ndarray, plan: MatmulPlan) -> np.ndarray:
    """Pack a constant right operand (K, N) in the layout `plan.packed_shape`; missing columns and rows are zero."""
    return np.concatenate([np.empty((0, *plan.packed_shape[1:]), matrix.dtype), *panels(matrix, plan)])


def panels(matrix: np.ndarray, plan: MatmulPlan) -> Iterator[np.ndarray]:
    """Yield `pack_matrix` in parts of some megabytes, each some panels."""
    count, steps, size = plan.packed_shape
    k, width, step = len(matrix), plan.width, plan.step
    most = max(1, PART_BYTES // max(1, steps * size * matrix.itemsize))
    for first in range(0, count, most):
        some = min(most, count - first)
        columns = matrix[:, first * width : (first + some) * width]
        part = np.zeros((some, steps * step, width), matrix.dtype)
        whole, rest = divmod(columns.shape[1], width)
        part[:whole, :k] = columns[:, : whole * width].reshape(k, whole, width).transpose(1, 0, 2)
        part[whole:, :k, :rest] = columns[:, whole * width :]
        yield part.reshape(some, steps, step, width).swapaxes(2, 3).reshape(some, steps, size)


def matmul_packed(a: te.Tensor, packed: te.Tensor, plan: MatmulPlan) -> te.Tensor:
    """Define `a` (..., M, K) by a matrix packed by `pack_matrix`: (..., M, N)."""
    assert plan.workload.n is not None
    width, step = plan.width, plan.step

    def right(_batch: Sequence[Any], k: Any, column: Any) -> Any:
        if step == 1:
            return packed(column // width, k, column % width)
        return packed(column // width, k // step, column % width * step + k % step)

    return _product(a, list(a.shape[:-2]), plan, long(plan.workload.n), right)


def matmul(a: te.Tensor, b: te.Tensor, plan: MatmulPlan) -> te.Tensor:
    """Define `a` (..., M, K) by `b` (..., K, N), each transposed if the plan's workload says so: (..., M, N)."""
    transpose_b = plan.workload.transpose_b
    batch = _broadcast(list(a.shape[:-2]), list(b.shape[:-2]))
    columns, depth = (b.shape[-2], b.shape[-1]) if transpose_b else (b.shape[-1], b.shape[-2])
    m = plan.workload.m
    if plan.workload.dtypes != INTEGER and not transpose_b and m is not None and m <= DIRECT_ROWS:
        return _product(a, batch, plan, columns, lambda outer, k, n: b(*_aligned(outer, b.shape[:-2]), k, n))
    width, step = plan.width, plan.step
    exact = isinstance(columns, tirx.IntImm) and int(columns) % width == 0

    def element(*index: Any) -> Any:
        *outer, panel, k, lane = index
        column = panel * width + lane
        value = _word(b, outer, k, column, plan) if step > 1 else _element(b, outer, k, column, plan)
        return value if exact else tirx.if_then_else(column < columns, value, tirx.const(0, str(value.ty.dtype)))

    shape = [*b.shape[:-2], (columns + width - 1) // width, (depth + step - 1) // step, width]
    panels = te.compute([simplified(size) for size in shape], element, name="pack")

    def right(outer: Sequence[Any], k: Any, column: Any) -> Any:
        value = panels(*_aligned(outer, b.shape[:-2]), column // width, k // step, column % width)
        return value if step == 1 else (value >> (k % step * 8).astype("int32")).astype("int8")

    return _product(a, batch, plan, columns, right)


def _element(b: te.Tensor, outer: Sequence[Any], k: Any, column: Any, plan: MatmulPlan) -> Any:
    return b(*outer, column, k) if plan.workload.transpose_b else b(*outer, k, column)


def _word(b: te.Tensor, outer: Sequence[Any], step: Any, column: Any, plan: MatmulPlan) -> Any:
    """Return the elements of a step in one column as the bytes of an int32; zeros below the last row."""
    assert plan.workload.k is not None
    depth, word = plan.workload.k, tirx.const(0, "int32")
    for place in range(plan.step):
        k = step * plan.step + place
        byte = _element(b, outer, k, column, plan).astype("uint8").astype("int32") << tirx.const(8 * place, "int32")
        word = word | (byte if depth % plan.step == 0 else tirx.if_then_else(k < depth, byte, tirx.const(0, "int32")))
    return word


def _broadcast(left: list[Any], right: list[Any]) -> list[Any]:
    """Return the batch dimensions of the result."""
    rank = max(len(left), len(right))
    left, right = [1] * (rank - len(left)) + left, [1] * (rank - len(right)) + right
    return [r if _is_one(x) else x for x, r in zip(left, right, strict=True)]


def _is_one(size: Any) -> bool:
    return isinstance(size, int | tirx.IntImm) and int(size) == 1


def _aligned(index: Sequence[Any], shape: Sequence[Any]) -> list[Any]:
    """Return the batch index of an operand with these batch dimensions: the trailing ones, 0 where it is broadcast."""
    own = index[len(index) - len(shape) :]
    return [0 if _is_one(size) else i for i, size in zip(own, shape, strict=True)]


def _product(a: te.Tensor, batch: list[Any], plan: MatmulPlan, columns: Any, right: Right) -> te.Tensor:
    transpose_a, dtypes = plan.workload.transpose_a, plan.workload.dtypes
    k, m = (a.shape[-2], a.shape[-1]) if transpose_a else (a.shape[-1], a.shape[-2])
    inner = reduce_axis(k, "k")

    def product(*index: Any) -> Any:
        *outer, row, column = index
        place = (inner, row) if transpose_a else (row, inner)
        value = a(*_aligned(outer, a.shape[:-2]), *place).astype(dtypes.accumulator)
        return te.sum(value * right(outer, inner, column).astype(dtypes.accumulator), axis=inner)

    shape = [simplified(size) for size in (*batch, m, columns)]
    numbers = (plan.rows, plan.vectors, plan.lanes, plan.k_block, plan.m_block)
    tile = [*numbers, int(plan.workload.packed), plan.way]
    anchor = te.compute(shape, product, name="matmul", attrs={"kernel": "matmul", "tile": tile})
    return te.compute(shape, lambda *index: anchor(*index).astype(dtypes.result), name="matmul_out")
