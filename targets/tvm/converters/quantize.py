"""Quantized arithmetic: QDQ, dynamic quantization, integer matmuls and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from graphopt.targets.tvm.converters.conv import convolve, kernel_size
from graphopt.targets.tvm.converters.integer_matmul import product_of_bytes
from graphopt.targets.tvm.converters.matmul import product
from graphopt.targets.tvm.converters.quantized_weights import dequantized_constant
from graphopt.targets.tvm.converters.reduce import reduced
from graphopt.targets.tvm.converters.reshape import reshape_to
from graphopt.targets.tvm.converters.tensors import elementwise
from graphopt.targets.tvm.converters.widened import as_products_read
from graphopt.targets.tvm.converters.window import int_expr, read_window
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Operand, Scaled
from graphopt.targets.tvm.lowering.registry import Declined, converter

_RANGE = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
    "int32": (-(1 << 31), (1 << 31) - 1),
}


def _spread(c: Call, operand: Operand, rank: int) -> Operand:
    """Return a scale or zero point shaped to broadcast with the data: per tensor, per axis, or per block."""
    block = int(c.attr("block_size", 0))
    if operand.size == 1 and not block:
        return reshape_to(c.ctx, operand, [1] * rank) if operand.rank not in (0, rank) else operand
    axis = c.axis(rank, 1) if rank > 1 else 0
    if not block:
        return reshape_to(c.ctx, operand, [operand.shape[0] if i == axis else 1 for i in range(rank)])
    sizes = c[0].shape

    def repeat(s: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            return s(*index[:axis], tirx.indexdiv(index[axis], int_expr(block)), *index[axis + 1 :])

        return define(sizes, element, name="blocks")

    return c.ctx.te(repeat, operand, name="blocks")


def _saturated(x: tirx.Expr, dtype: str) -> tirx.Expr:
    """Round a float to the nearest integer, halves to even, and clamp it to the range of `dtype`."""
    kind = str(x.ty.dtype)
    low, high = _RANGE[dtype]
    return tirx.max(tirx.min(x, tirx.const(high, kind)), tirx.const(low, kind)).astype("int32").astype(dtype)


@converter("QuantizeLinear")
def quantize_linear(c: Call) -> Operand:
    data, scale, zero = c[0], c[1], c.input(2)
    dtype = zero.dtype if zero is not None else "uint8"
    if c.attr("output_dtype"):
        dtype = c.dtype_attr("output_dtype")
    if dtype not in _RANGE or dtype == "int32":
        raise Declined(f"quantizing to {dtype}")
    if c.attr("precision", 0) not in (0, 1):
        raise Declined("a precision other than float32")
    operands = [data, _spread(c, scale, data.rank), *([] if zero is None else [_spread(c, zero, data.rank)])]

    def quantize(x: tirx.Expr, s: tirx.Expr, *z: tirx.Expr) -> tirx.Expr:
        value = tirx.nearbyint(x.astype("float32") / s.astype("float32"))
        return _saturated(value + z[0].astype("float32") if z else value, dtype)

    return elementwise(c.ctx, quantize, operands, dtype, "quantize")


@converter("DequantizeLinear")
def dequantize_linear(c: Call) -> Operand:
    data, scale, zero = c[0], c[1], c.input(2)
    dtype = c.dtype_attr("output_dtype", scale.dtype) if c.attr("output_dtype") else scale.dtype
    axis = c.axis(data.rank, 1) if data.rank > 1 else 0
    constant = dequantized_constant(data, scale, zero, axis, int(c.attr("block_size", 0)), dtype)
    if constant is not None:
        return constant
    if data.dtype not in _RANGE:
        raise Declined(f"dequantizing {data.dtype}")
    operands = [
        as_products_read(c.ctx, data),
        _spread(c, scale, data.rank),
        *([] if zero is None else [_spread(c, zero, data.rank)]),
    ]

    def dequantize(x: tirx.Expr, s: tirx.Expr, *z: tirx.Expr) -> tirx.Expr:
        if z and data.dtype != "int32":  # exact, and kernels that differ in a float number share their code
            return (x.astype("float32") - z[0].astype("float32")) * s.astype("float32")
        value = x.astype("int32") - z[0].astype("int32") if z else x
        return value.astype("float32") * s.astype("float32")

    result = elementwise(c.ctx, dequantize, operands, dtype, "dequantize")
    if dtype == "float32" and _is_number(scale) and (zero is None or _is_number(zero)):
        result.scaled = Scaled(operands[0], float(_number(scale)), 0 if zero is None else int(_number(zero)))
    return result


def _is_number(operand: Operand) -> bool:
    return operand.array is not None and operand.size == 1


def _number(operand: Operand) -> Any:
    return np.asarray(operand.array).item()


@converter("DynamicQuantizeLinear")
def dynamic_quantize_linear(c: Call) -> list[Operand | None]:
    data = c[0]
    axes = range(data.rank)
    nil, top = tirx.const(0, "float32"), tirx.const(255, "float32")

    def number(x: tirx.Expr) -> tirx.Expr:
        return tirx.Select(tirx.isnan(x), nil, x)

    # As in ONNX Runtime, NaN does not count for the range, which includes 0, and becomes 0.
    low = reduced(c.ctx, data, axes, te.min, keep=False, before=number, name="min")
    high = reduced(c.ctx, data, axes, te.max, keep=False, before=number, name="max")

    def scale_of(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
        # ONNX divides by zero where all elements are zero; ONNX Runtime takes a scale of 1 there.
        width = tirx.max(b, nil) - tirx.min(a, nil)
        return tirx.Select(tirx.EQ(width, nil), tirx.const(1, "float32"), width / top)

    def zero_of(a: tirx.Expr, s: tirx.Expr) -> tirx.Expr:
        place = tirx.nearbyint(nil - tirx.min(a, nil) / s)
        return _saturated(tirx.Select(tirx.isnan(place), top, place), "uint8")

    scale = elementwise(c.ctx, scale_of, [low, high], "float32", "scale")
    zero = elementwise(c.ctx, zero_of, [low, scale], "uint8", "zero_point")

    def quantize(x: tirx.Expr, s: tirx.Expr, z: tirx.Expr) -> tirx.Expr:
        return _saturated(number(tirx.nearbyint(x / s) + z.astype("float32")), "uint8")

    return [elementwise(c.ctx, quantize, [data, scale, zero], "uint8", "quantize"), scale, zero]


def _centered(ctx: Context, data: Operand, zero: Operand | None, axis: int) -> Operand:
    """Return int32 data minus its zero point, which is one number or a vector along `axis`."""
    if zero is None:
        return data
    if zero.rank == 1 and zero.size != 1:
        shape: Sequence[Any] = [zero.shape[0] if i == axis % data.rank else 1 for i in range(data.rank)]
        zero = reshape_to(ctx, zero, shape)
    elif zero.size == 1:
        zero = reshape_to(ctx, zero, [])
    return elementwise(ctx, lambda x, z: x.astype("int32") - z.astype("int32"), [data, zero], "int32", "center")


@converter("MatMulInteger")
def mat_mul_integer(c: Call) -> Operand:
    packed = product_of_bytes(c.ctx, c[0], c[1], c.input(2), c.input(3))
    if packed is not None:
        return packed
    a = _centered(c.ctx, c[0], c.input(2), -2)
    b = _centered(c.ctx, c[1], c.input(3), -1)
    return product(c.ctx, a, b, dtype="int32")


@converter("ConvInteger")
def conv_integer(c: Call) -> Operand:
    data, weight = _centered(c.ctx, c[0], c.input(2), 0), _centered(c.ctx, c[1], c.input(3), 0)
    window = read_window(c, data, kernel_size(weight))
    return convolve(c.ctx, data, weight, window, int(c.attr("group", 1)), dtype="int32")


def _requantized(c: Call, total: Operand, scales: Sequence[Operand], out_scale: Operand, out_zero: Operand) -> Operand:
    """Convert int32 results to the output's scale: one multiplication in float32, then rounding and saturation."""
    dtype = out_zero.dtype

    def requantize(x: tirx.Expr, a: tirx.Expr, b: tirx.Expr, y: tirx.Expr, z: tirx.Expr) -> tirx.Expr:
        factor = a.astype("float32") * b.astype("float32") / y.astype("float32")
        return _saturated(tirx.nearbyint(x.astype("float32") * factor) + z.astype("float32"), dtype)

    return elementwise(c.ctx, requantize, [total, *scales, out_scale, out_zero], dtype, "requantize")


def _column(c: Call, operand: Operand, rank: int, axis: int) -> Operand:
    if operand.size == 1:
        return reshape_to(c.ctx, operand, [])
    return reshape_to(c.ctx, operand, [operand.shape[0] if i == axis else 1 for i in range(rank)])


@converter("QLinearMatMul")
def q_linear_mat_mul(c: Call) -> Operand:
    if any(c[i].rank > 1 for i in (1, 2, 4, 5, 6, 7)):
        raise Declined("scales of rank 2 or more")
    if c[2].dtype not in ("int8", "uint8") or c[5].dtype not in ("int8", "uint8"):
        raise Declined("quantized types other than 8 bits")
    a, b = _centered(c.ctx, c[0], c[2], -2), _centered(c.ctx, c[3], c[5], -1)
    total = product(c.ctx, a, b, dtype="int32")
    rank = total.rank
    scales = [_column(c, c[1], rank, rank - 2), _column(c, c[4], rank, rank - 1)]
    return _requantized(c, total, scales, _column(c, c[6], rank, rank - 2), _column(c, c[7], rank, rank - 2))


@converter("QLinearConv")
def q_linear_conv(c: Call) -> Operand:
    data, weight = _centered(c.ctx, c[0], c[2], 0), _centered(c.ctx, c[3], c[5], 0)
    window = read_window(c, data, kernel_size(weight))
    total = convolve(c.ctx, data, weight, window, int(c.attr("group", 1)), dtype="int32")
    bias = c.input(8)
    if bias is not None:
        column = reshape_to(c.ctx, bias, [*bias.shape, *[1] * (total.rank - 2)])
        total = elementwise(c.ctx, lambda x, b: x + b, [total, column], "int32", "bias")
    scales = [_column(c, c[1], total.rank, 1), _column(c, c[4], total.rank, 1)]
    return _requantized(c, total, scales, _column(c, c[6], total.rank, 1), _column(c, c[7], total.rank, 1))
