"""Constant matrices of 2-, 4- or 8-bit integers: `DequantizeLinear` of constants, and `MatMulNBits`.

What DequantizeLinear makes of constants is a constant. Kernels that read integers find out from it which they were
(`Operand.quantized`); all others read floats, which are computed when weights are written.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from graphopt.targets.tvm.converters.reshape import reshape_to
from graphopt.targets.tvm.converters.tensors import elementwise
from graphopt.targets.tvm.kernels.nbits.compute import stack
from graphopt.targets.tvm.kernels.nbits.plan import MIDDLE, NBitsWorkload
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.kernel import kernel
from graphopt.targets.tvm.lowering.operand import Operand, Quantized
from graphopt.targets.tvm.lowering.registry import Declined, converter

_BITS = {"int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "int8": 8, "uint8": 8}


def dequantized_constant(
    data: Operand, scale: Operand, zero: Operand | None, axis: int, block: int, dtype: str
) -> Operand | None:
    """Return what DequantizeLinear makes of constants, as a constant; None if an operand is computed."""
    parts = [data, scale, *([] if zero is None else [zero])]
    if not all(part.is_constant for part in parts):
        return None
    shape = [int(size) for size in data.shape]

    def read() -> np.ndarray:
        numbers, scales = _array(data).astype(np.int32), _array(scale)
        if zero is not None:
            numbers -= _spread(_array(zero).astype(np.int32), shape, axis, block)
        floats = numbers.astype(np.float32) * _spread(scales.astype(np.float32), shape, axis, block)
        return floats.astype(scales.dtype if dtype == scale.dtype else np.dtype(dtype))

    key = (*(part.key for part in parts), "dequantized", axis, block, dtype)
    made = Operand(dtype, shape, read=read, name=data.name, key=key)
    made.quantized = Quantized(data, scale, zero, axis, block)
    return made


def _array(operand: Operand) -> np.ndarray:
    array = operand.array
    assert array is not None
    return array


def _spread(values: np.ndarray, shape: list[int], axis: int, block: int) -> np.ndarray:
    """Return scales or zero points with one for each element, or in a shape that broadcasts: see DequantizeLinear."""
    if block:
        return np.take(np.repeat(values, block, axis), range(shape[axis]), axis)
    return values if values.size == 1 else values.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def matmul_of_few_bits(ctx: Context, a: Operand, b: Operand, *, transpose_b: bool = False) -> Operand | None:
    """Emit the matmul of `a` (..., K) by what was a quantized constant (K, N); None if no kernel reads its integers."""
    weight = b.quantized
    if weight is None or a.dtype != "float32" or b.dtype != "float32" or b.rank != 2 or a.rank < 1:
        return None
    bits = _BITS.get(weight.integers.dtype)
    n, k = (int(b.shape[0]), int(b.shape[1])) if transpose_b else (int(b.shape[1]), int(b.shape[0]))
    depth_axis = 1 if transpose_b else 0
    if bits is None or not n or not k or a.shape[-1] != k:
        return None
    if weight.block and weight.axis != depth_axis:
        return None
    per_row = not weight.block and weight.scale.size != 1 and weight.axis == depth_axis
    if per_row:
        return None
    block = min(weight.block, k) or k
    middle = MIDDLE[bits] if weight.integers.dtype.startswith("int") else 0
    points = None if weight.zero is None else _array(weight.zero).astype(np.float32) + middle
    zeros = bool(np.any(points != MIDDLE[bits])) if points is not None else middle != MIDDLE[bits]

    def read() -> np.ndarray:
        numbers = (_array(weight.integers).astype(np.int16) + middle).astype(np.uint8)
        point = np.full(1, middle, np.float32) if points is None else points
        scales, zero_points = (_by_groups(v, n, k, block, transpose_b) for v in (_array(weight.scale), point))
        return stack(numbers.T if transpose_b else numbers, scales, zero_points if zeros else None)

    key = (*b.key, "few bits", transpose_b)
    return _product(ctx, a, NBitsWorkload(None, n, k, bits, block, zeros), Operand("uint8", (1,), read=read, key=key))


def _by_groups(values: np.ndarray, n: int, k: int, block: int, transpose: bool) -> np.ndarray:
    """Return scales or zero points as float32 [groups, N]."""
    floats = values.astype(np.float32)
    if values.ndim == 2:
        floats = floats.T if transpose else floats
    return np.ascontiguousarray(np.broadcast_to(floats, (-(-k // block), n)))


def _product(ctx: Context, a: Operand, work: NBitsWorkload, weight: Operand) -> Operand | None:
    lead = list(a.shape[:-1])
    rows = math.prod(int(size) for size in lead) if all(isinstance(size, int) for size in lead) else None
    if rows == 0:
        return None
    work = replace(work, m=rows)
    chosen = ctx.plans.choose(work, weight.key)
    if chosen is None:
        return None
    total: object = 1
    for size in lead:
        total = total * size  # type: ignore[operator]
    flat = reshape_to(ctx, a, [total, work.k])
    result = kernel(ctx, work, chosen, flat, weight, name=f"matmul{work.bits}bits")
    return reshape_to(ctx, result, [*lead, work.n])


@converter("com.microsoft::MatMulNBits")
def mat_mul_n_bits(c: Call) -> Operand:
    """Microsoft's operator: B is (N, groups, bytes of a group), with scales and zero points of (N, groups).

    An `accuracy_level` of 4 permits that data are rounded to 8 bits.
    """
    a, b, scales, zeros, order, bias = c[0], c[1], c[2], c.input(3), c.input(4), c.input(5)
    n, k = int(c.attr("N")), int(c.attr("K"))
    bits, block = int(c.attr("bits", 4)), int(c.attr("block_size"))
    groups = -(-k // block)
    if bits not in MIDDLE or order is not None or a.dtype != "float32" or scales.dtype != "float32":
        raise Declined(f"{bits} bits, an order of groups, or types other than float32")
    if not (b.is_constant and scales.is_constant and (zeros is None or zeros.is_constant)):
        raise Declined("a computed matrix")

    def unpacked(packed: np.ndarray, count: int) -> np.ndarray:
        """The integers of the last axis of bytes, of which the first one has the lowest bits."""
        each = [packed >> shift & ((1 << bits) - 1) for shift in range(0, 8, bits)]
        return np.stack(each, axis=-1).reshape(*packed.shape[:-1], -1)[..., :count]

    def points() -> np.ndarray | None:
        if zeros is None:
            return None
        array = _array(zeros)
        if zeros.dtype == "uint8":
            array = unpacked(array.reshape(n, -1), groups)
        return np.ascontiguousarray(array.reshape(n, groups).T.astype(np.float32))

    def read() -> np.ndarray:
        integers = unpacked(_array(b).reshape(n, groups, -1), block).reshape(n, groups * block)[:, :k]
        return stack(integers.T, np.ascontiguousarray(_array(scales).reshape(n, groups).T), points())

    key = (b.key, scales.key, None if zeros is None else zeros.key, "MatMulNBits")
    rounded = int(c.attr("accuracy_level", 0)) == 4
    work = NBitsWorkload(None, n, k, bits, block, zeros is not None, rounded)
    result = _product(c.ctx, a, work, Operand("uint8", (1,), read=read, key=key))
    if result is None:
        raise Declined("no kernel for it on this device")
    return result if bias is None else elementwise(c.ctx, lambda x, y: x + y, [result, bias], "float32", "bias")
