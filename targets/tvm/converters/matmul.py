"""Matmuls: MatMul, Gemm, Einsum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm.converters.elementwise import opaque_zero
from graphopt.targets.tvm.converters.half import in_bfloat16
from graphopt.targets.tvm.converters.quantized_weights import matmul_of_few_bits
from graphopt.targets.tvm.converters.reshape import reshape_to
from graphopt.targets.tvm.converters.shape import transposed
from graphopt.targets.tvm.converters.tensors import any_of, broadcast_index, broadcast_read, elementwise, wide, zeros
from graphopt.targets.tvm.converters.widened import with_small
from graphopt.targets.tvm.converters.window import int_expr
from graphopt.targets.tvm.kernels.family import Dtypes
from graphopt.targets.tvm.kernels.matmul.plan import MatmulWorkload
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.kernel import kernel
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter

FEW_ROWS = 8
"""The number of rows below which a matmul does not fill a register tile."""
NARROW_ROWS = 16
"""The number of rows up to which reading half as much of a matrix is worth more than converting it costs."""


def agree(ctx: Context, a: Operand, axis_a: int, b: Operand, axis_b: int) -> tuple[Operand, Operand]:
    """Return both operands with the same size on these two axes, checked at run time if it cannot be proven."""
    left, right = a.shape[axis_a], b.shape[axis_b]
    if ctx.same(left, right):
        return a, b
    if isinstance(left, int):
        shape = list(b.shape)
        shape[axis_b] = left
        return a, ctx.require(b, shape)
    shape = list(a.shape)
    shape[axis_a] = right
    return ctx.require(a, shape), b


def matmul(ctx: Context, a: Operand, b: Operand, *, dtype: str | None = None, name: str = "matmul") -> Operand:
    """Emit numpy's matmul for operands of rank 2 or more, accumulating in the wide type (int32 for small integers).

    A sum of no terms is 0.
    """
    dtype = dtype or a.dtype
    kind = wide(dtype)
    a, b = agree(ctx, a, a.rank - 1, b, b.rank - 2)
    batch = max(a.rank, b.rank) - 2
    heads = [Operand(a.dtype, a.shape[:-2]), Operand(b.dtype, b.shape[:-2])]
    _, lead = ctx.broadcast(heads)
    a, b = _stretched(ctx, a, lead), _stretched(ctx, b, lead)
    fast = fast_matmul(ctx, a, b, dtype=dtype, name=name)
    if fast is not None:
        return fast
    sizes, depth = [*lead, a.shape[-2], b.shape[-1]], a.shape[-1]
    if isinstance(depth, int) and depth == 0:
        return zeros(ctx, sizes, dtype, name)
    open_depth = not ctx.symbols.is_positive(depth)

    def compute(x: te.Tensor, y: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, depth), "k")

        def element(*index: tirx.Expr) -> tirx.Expr:
            row, column = index[batch], index[batch + 1]
            left = x(*broadcast_index(a.shape[:-2], index[:batch]), row, k)
            right = y(*broadcast_index(b.shape[:-2], index[:batch]), k, column)
            return te.sum(left.astype(kind) * right.astype(kind), axis=k)

        total = define(sizes, element, name=name)
        if open_depth:
            return define(sizes, lambda *i: _or_zero([depth], total(*i)).astype(dtype), name=f"{name}_result")
        if kind == dtype:
            return total
        return define(sizes, lambda *i: total(*i).astype(dtype), name=f"{name}_result")

    return ctx.te(compute, a, b, name=name)


def _or_zero(sizes: Sequence[Dim], total: tirx.Expr) -> tirx.Expr:
    """A sum over axes of these sizes; 0 where one of them is 0, for then the loop that sets it does not run."""
    is_empty = any_of([tirx.EQ(size, int_expr(0)) for size in sizes])
    return tirx.Select(is_empty, tirx.const(0, str(total.ty.dtype)), total)


def fast_matmul(
    ctx: Context,
    a: Operand,
    b: Operand,
    *,
    dtype: str,
    transpose_a: bool = False,
    transpose_b: bool = False,
    name: str = "matmul",
) -> Operand | None:
    """Emit the matmul in `dtype` by a kernel family; None if no family computes it on this machine."""
    m, k = (a.shape[-1], a.shape[-2]) if transpose_a else (a.shape[-2], a.shape[-1])
    n = _known(b.shape[-2 if transpose_b else -1])
    if isinstance(k, int) and k == 0:
        return None
    constant = b.is_constant and b.rank == 2 and n is not None and not transpose_b
    if constant and b.narrow is not None and (_known(m) or 1) <= NARROW_ROWS:
        dtypes = Dtypes(a.dtype, b.narrow.dtype, "float32", dtype)
        work = MatmulWorkload(_known(m), n, _known(k), dtypes, constant, transpose_a)
        chosen = ctx.plans.choose(work, b.narrow.key)
        if chosen is not None:
            return kernel(ctx, work, chosen, a, b.narrow, name=name)
    dtypes = Dtypes(a.dtype, b.dtype, wide(dtype), dtype)
    if constant:
        dtypes = with_small(ctx, dtypes, b)
    work = MatmulWorkload(_known(m), n, _known(k), dtypes, constant, transpose_a, transpose_b)
    chosen = ctx.plans.choose(work, b.key if constant else None)
    return None if chosen is None else kernel(ctx, work, chosen, a, b, name=name)


def _known(size: Dim) -> int | None:
    return size if isinstance(size, int) else None


def _stretched(ctx: Context, data: Operand, lead: Sequence[Dim]) -> Operand:
    """Return the operand with batch sizes that are 1 or those of `lead`.

    Open sizes that may turn out to be 1 need a copy, because matmul kernels must know.
    """
    tail = lead[len(lead) - data.rank + 2 :]
    fitting = [isinstance(have, int) or ctx.same(have, want) for have, want in zip(data.shape, tail)]
    if all(fitting):
        return data
    wanted = [have if fits else want for have, want, fits in zip(data.shape, tail, fitting)]
    shape = [*wanted, *data.shape[-2:]]

    def stretch(x: te.Tensor) -> te.Tensor:
        return define(shape, lambda *index: broadcast_read(ctx, x, data, index, shape), name="stretch")

    return ctx.te(stretch, data, name="stretch")


def product(ctx: Context, a: Operand, b: Operand, *, dtype: str | None = None) -> Operand:
    """Emit numpy's matmul for any ranks from 1 on."""
    left = reshape_to(ctx, a, [1, *a.shape]) if a.rank == 1 else a
    right = reshape_to(ctx, b, [*b.shape, 1]) if b.rank == 1 else b
    rows = _known(left.shape[-2])
    if left.rank > 2 and right.rank == 2 and rows is not None and rows < FEW_ROWS and all(map(_known, left.shape)):
        # Few rows in each of many matrices, times one matrix: one larger matmul instead of many small ones.
        rows = math.prod(int(size) for size in left.shape[:-1])
        flat = matmul(ctx, reshape_to(ctx, left, [rows, left.shape[-1]]), right, dtype=dtype)
        result = reshape_to(ctx, flat, [*left.shape[:-1], right.shape[-1]])
    else:
        result = matmul(ctx, left, right, dtype=dtype)
    sizes = list(result.shape)
    if b.rank == 1:
        sizes.pop()
    if a.rank == 1:
        sizes.pop(-1 if b.rank == 1 else -2)
    return reshape_to(ctx, result, sizes)


@converter("MatMul")
def mat_mul(c: Call) -> Operand:
    few_bits = matmul_of_few_bits(c.ctx, c[0], c[1])
    if few_bits is not None:
        return few_bits
    return product(c.ctx, *(_narrow_factors(c.ctx, c[0], c[1]) or (c[0], c[1])), dtype=c[0].dtype)


def _narrow_factors(ctx: Context, a: Operand, b: Operand) -> tuple[Operand, Operand] | None:
    """Return the operands in bfloat16 if there is a kernel for it."""
    return in_bfloat16(ctx, a, b) if b.rank == 2 and _known(a.shape[-1]) else None


@converter("Gemm")
def gemm(c: Call) -> Operand:
    a, b, dtype = c[0], c[1], c[0].dtype
    turn_a, turn_b = bool(c.attr("transA", 0)), bool(c.attr("transB", 0))
    result = None if turn_a else matmul_of_few_bits(c.ctx, a, b, transpose_b=turn_b)
    if not turn_a and result is None:
        a, b = _narrow_factors(c.ctx, a, b) or (a, b)
    if turn_b and b.is_constant and result is None:
        turned = transposed(c.ctx, b, [1, 0])
        turned.narrow = None if b.narrow is None else transposed(c.ctx, b.narrow, [1, 0])
        b, turn_b = turned, False
    if a.dtype == b.dtype and result is None:
        x, y = agree(c.ctx, a, 0 if turn_a else 1, b, 1 if turn_b else 0)
        result = fast_matmul(c.ctx, x, y, dtype=dtype, transpose_a=turn_a, transpose_b=turn_b)
    if result is None:
        a = transposed(c.ctx, a, [1, 0]) if turn_a else a
        b = transposed(c.ctx, b, [1, 0]) if turn_b else b
        result = matmul(c.ctx, a, b, dtype=dtype)
    alpha, beta, bias = float(c.attr("alpha", 1.0)), float(c.attr("beta", 1.0)), c.input(2)
    kind = wide(dtype)
    if bias is not None and beta != 0:

        def finish(x: tirx.Expr, y: tirx.Expr) -> tirx.Expr:
            return _times(alpha, x.astype(kind)) + _times(beta, y.astype(kind))

        return elementwise(c.ctx, finish, [result, bias], dtype, "gemm_bias")
    if alpha != 1.0:
        return elementwise(c.ctx, lambda x: _times(alpha, x.astype(kind)), [result], dtype, "gemm_scale")
    return result


def _times(factor: float, x: tirx.Expr) -> tirx.Expr:
    kind = str(x.ty.dtype)
    if factor == 1.0:
        return x
    if kind.startswith("float"):
        return x * opaque_zero(tirx.const(factor, kind))
    return (x.astype("float64") * tirx.const(factor, "float64")).astype(kind)


@converter("Einsum")
def einsum(c: Call) -> Operand:
    """Sum over every letter that the result lacks, as one reduction."""
    operands = [operand for operand in c.inputs if operand is not None]
    terms, result = _terms(str(c.attr("equation")), [operand.rank for operand in operands])
    sizes, operands = _letter_sizes(c, terms, operands)
    dtype = operands[0].dtype
    kind = wide(dtype)
    summed = [letter for letter in sizes if letter not in result]
    shape = [sizes[letter] for letter in result]
    depths = [sizes[letter] for letter in summed]
    if any(isinstance(depth, int) and depth == 0 for depth in depths):
        return zeros(c.ctx, shape, dtype, "einsum")
    open_depths = [depth for depth in depths if not c.ctx.symbols.is_positive(depth)]

    def compute(*tensors: te.Tensor) -> te.Tensor:
        loops = {letter: te.reduce_axis((0, sizes[letter]), f"k_{i}") for i, letter in enumerate(summed)}

        def element(*index: tirx.Expr) -> tirx.Expr:
            place = dict(zip(result, index)) | loops
            value: Any = None
            for term, operand, tensor in zip(terms, operands, tensors):
                one = tensor(*broadcast_index(operand.shape, [place[letter] for letter in term])).astype(kind)
                value = one if value is None else value * one
            return te.sum(value, axis=list(loops.values())) if loops else value

        total = define(shape, element, name="einsum")
        if open_depths:
            return define(shape, lambda *i: _or_zero(open_depths, total(*i)).astype(dtype), name="einsum_result")
        if kind == dtype:
            return total
        return define(shape, lambda *i: total(*i).astype(dtype), name="einsum_result")

    return c.ctx.te(compute, *operands, name="einsum")


def _letter_sizes(c: Call, terms: list[str], operands: list[Operand]) -> tuple[dict[str, Dim], list[Operand]]:
    """Return the size of each letter, and the operands, checked to have these sizes or 1."""
    sizes: dict[str, Dim] = {}
    for term, operand in zip(terms, operands):
        for letter, size in zip(term, operand.shape):
            if (
                letter not in sizes
                or (isinstance(sizes[letter], int) and sizes[letter] == 1)
                or (isinstance(size, int) and size != 1)
            ):
                sizes[letter] = size
    return sizes, [
        c.ctx.require(o, [s if isinstance(s, int) and s == 1 else sizes[letter] for letter, s in zip(term, o.shape)])
        for term, o in zip(terms, operands)
    ]


def _terms(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Return the letters of each operand and of the result, with "..." expanded to digits."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise Declined(f"the equation {equation!r} names {len(terms)} operands, there are {len(ranks)}")
    hidden = [rank - len(term.replace("...", "")) if "..." in term else 0 for term, rank in zip(terms, ranks)]
    most = max(hidden)
    if most > 10:
        raise Declined("more than 10 axes under an ellipsis")
    digits = "0123456789"[:most]
    terms = [term.replace("...", digits[most - count :]) for term, count in zip(terms, hidden)]
    if any(len(term) != rank for term, rank in zip(terms, ranks)):
        raise Declined(f"the equation {equation!r} does not fit ranks {ranks}")
    if arrow:
        return terms, right.replace("...", digits)
    letters = "".join(terms)
    once = sorted(letter for letter in set(letters) if letter.isalpha() and letters.count(letter) == 1)
    return terms, digits + "".join(once)
