"""Matmuls of bytes, with zero points, by kernels that multiply uint8 by int8 without them.

With a' = a + s and b' = b - t, which are uint8 and int8 (s and t are 0 or 128), and zero points p of a' and q of b',

    sum (a' - p) (b' - q) = sum a' b' - p * (sums of the columns of b') - q * (sums of the rows of a') + K * p * q
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te, tirx

from graphopt.targets.tvm.converters.matmul import product
from graphopt.targets.tvm.converters.reshape import reshape_to
from graphopt.targets.tvm.converters.tensors import elementwise
from graphopt.targets.tvm.converters.widened import for_products
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Operand

_BYTES = ("int8", "uint8")
_MIDDLE = 128


def product_of_bytes(
    ctx: Context, a: Operand, b: Operand, zero_a: Operand | None, zero_b: Operand | None
) -> Operand | None:
    """Return the int32 product of `a` (..., M, K) and `b` (..., K, N); None if these kernels do not apply.

    The zero point of `a` is one number, which may be computed; that of `b` is constant, one number or one per column.
    """
    if a.dtype not in _BYTES or b.dtype not in _BYTES or a.rank < 2 or b.rank < 2:
        return None
    depth = b.shape[-2]
    if not isinstance(depth, int) or not depth or (zero_a is not None and zero_a.size != 1):
        return None
    if zero_b is not None and not zero_b.is_constant:
        return None
    shift_a, shift_b = _MIDDLE * (a.dtype == "int8"), _MIDDLE * (b.dtype == "uint8")
    bytes_a = elementwise(ctx, lambda x: x.astype("int32") + _MIDDLE, [a], "uint8", "unsigned") if shift_a else a
    bytes_b = _signed(ctx, b) if shift_b else b
    factors = for_products(ctx, bytes_a, bytes_b) if b.is_constant else (bytes_a, bytes_b)
    total = product(ctx, *factors, dtype="int32")
    p = _point(ctx, zero_a, shift_a)
    q = np.full(1, -shift_b, np.int32)
    if zero_b is not None and zero_b.array is not None:
        q = zero_b.array.astype(np.int32).ravel() - shift_b
    operands, terms = [total], list[Callable[[Any, Any, Any], Any]]()
    if p is not None:
        operands += [p, _column_sums(ctx, bytes_b)]
        terms.append(lambda x, point, sums: x - point * sums)
    if q.any():
        column = Operand.constant(q)
        operands += [_row_sums(ctx, bytes_a), column]
        terms.append(lambda x, sums, point: x - sums * point)
        if p is not None:
            operands += [p, column]
            terms.append(lambda x, left, right: x + left * right * tirx.const(depth, "int32"))
    if not terms:
        return total

    def correct(x: Any, *rest: Any) -> Any:
        for place, term in enumerate(terms):
            x = term(x, *rest[2 * place : 2 * place + 2])
        return x

    return elementwise(ctx, correct, operands, "int32", "zero_points")


def _signed(ctx: Context, b: Operand) -> Operand:
    if not b.is_constant:
        return elementwise(ctx, lambda x: x.astype("int32") - _MIDDLE, [b], "int8", "signed")
    shape = tuple(int(size) for size in b.shape)
    return b.derived(shape, ("signed",), lambda x: (x.astype(np.int16) - _MIDDLE).astype(np.int8), dtype="int8")


def _point(ctx: Context, zero: Operand | None, shift: int) -> Operand | None:
    """Return the zero point of `a` as int32; None if it is known to be 0."""
    if zero is None or zero.is_constant:
        number = shift + (0 if zero is None else int(zero.array.ravel()[0]))  # type: ignore[union-attr]
        return Operand.constant(np.array(number, np.int32)) if number else None
    single = reshape_to(ctx, zero, [])
    return elementwise(ctx, lambda z: z.astype("int32") + shift, [single], "int32", "zero_point")


def _column_sums(ctx: Context, b: Operand) -> Operand:
    if not b.is_constant:
        return _sums(ctx, b, b.rank - 2, "column_sums")
    shape = (*(int(size) for size in b.shape[:-2]), 1, int(b.shape[-1]))
    return b.derived(shape, ("column sums",), lambda x: x.sum(-2, dtype=np.int32, keepdims=True), dtype="int32")


def _row_sums(ctx: Context, a: Operand) -> Operand:
    return _sums(ctx, a, a.rank - 1, "row_sums")


def _sums(ctx: Context, data: Operand, axis: int, name: str) -> Operand:
    """Return the int32 sums along an axis, which is kept."""
    shape = [1 if place == axis else size for place, size in enumerate(data.shape)]

    def compute(x: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, data.shape[axis]), "k")
        return define(shape, lambda *i: te.sum(x(*i[:axis], k, *i[axis + 1 :]).astype("int32"), axis=k), name=name)

    return ctx.te(compute, data, name=name)
