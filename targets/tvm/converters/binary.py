"""Operators on two or more operands that are broadcast against each other."""

from __future__ import annotations

import functools

import ml_dtypes
from tvm import tirx

from graphopt.targets.tvm.converters.elementwise import (
    Function,
    const,
    kind_of,
    maximum,
    minimum,
    opaque,
    opaque_zero,
    select,
)
from graphopt.targets.tvm.converters.reshape import reshape_to
from graphopt.targets.tvm.converters.tensors import elementwise, wide
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.operand import Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter


def _legacy_broadcast(c: Call) -> list[Operand]:
    """Return the operands of a binary operator; before opset 7, `axis` aligned the second with the first."""
    a, b = c[0], c[1]
    if c.version < 7 and c.attr("broadcast", 0) and c.attr("axis") is not None:
        axis = c.axis(a.rank)
        tail = a.rank - axis - b.rank
        b = reshape_to(c.ctx, b, [*b.shape, *[1] * tail])
    return [a, b]


def _is_number(x: tirx.Expr) -> tirx.Expr:
    return tirx.EQ(tirx.isnan(x.astype("float32") if "16" in kind_of(x) else x).astype("int8"), tirx.const(0, "int8"))


# TVM's simplifier turns x == x and x <= x into true, but they are false for NaN.
_OF_ITSELF = {"Equal": _is_number, "LessOrEqual": _is_number, "GreaterOrEqual": _is_number}


def binary(op: str, function: Function, *, integer: Function | None = None, to: str | None = None) -> None:
    """Register a converter of two broadcast operands; `to` is the element type of the result if it differs."""

    @converter(op)
    def convert(c: Call) -> Operand:
        operands = _legacy_broadcast(c)
        dtype = operands[0].dtype
        if op in _OF_ITSELF and c.node.inputs[0] is c.node.inputs[1] and operands[0].is_float:
            return elementwise(c.ctx, _OF_ITSELF[op], operands[:1], "bool", op.lower())
        kind = wide(dtype)
        chosen = integer if integer is not None and not operands[0].is_float else function
        name = op.lower()
        return elementwise(c.ctx, lambda a, b: chosen(a.astype(kind), b.astype(kind)), operands, to or dtype, name)


def integer_division(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Divide, rounding towards zero. A divisor of zero gives 0; ONNX leaves that undefined, and hardware may trap."""
    safe = select(tirx.EQ(b, const(0, b)), const(1, b), b)
    return select(tirx.EQ(b, const(0, b)), const(0, b), tirx.truncdiv(a, safe))


binary("Add", lambda a, b: opaque_zero(a) + opaque_zero(b))


binary("Sub", lambda a, b: a - b)


binary("Mul", lambda a, b: opaque_zero(a) * opaque_zero(b))


binary("Div", lambda a, b: opaque_zero(a) / opaque(b), integer=integer_division)


def _same(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Compare integers or booleans for equality; for booleans, LLVM would otherwise get a comparison of floats."""
    return tirx.EQ(a.astype("int8"), b.astype("int8")) if kind_of(a) == "bool" else tirx.EQ(a, b)


binary("Equal", tirx.EQ, integer=_same, to="bool")


binary("Less", tirx.LT, to="bool")


binary("LessOrEqual", tirx.LE, to="bool")


binary("Greater", tirx.GT, to="bool")


binary("GreaterOrEqual", tirx.GE, to="bool")


binary("And", tirx.And, to="bool")


binary("Or", tirx.Or, to="bool")


binary("Xor", lambda a, b: a ^ b, to="bool")


binary("BitwiseAnd", lambda a, b: a & b)


binary("BitwiseOr", lambda a, b: a | b)


binary("BitwiseXor", lambda a, b: a ^ b)


@converter("BitShift")
def bit_shift(c: Call) -> Operand:
    left, dtype = c.attr("direction") == "LEFT", c[0].dtype
    bits = int(dtype.lstrip("uint"))
    signed = dtype.startswith("int")

    def function(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
        # Shifting by the width or more is undefined for the machine; here it leaves zero, or only the sign.
        safe = tirx.max(tirx.min(b, const(bits - 1, b)), const(0, b))
        shifted = a << safe if left else a >> safe
        inside = b < const(bits, b)
        if not signed:
            return select(inside, shifted, const(0, a))
        inside = tirx.And(inside, b >= const(0, b))
        rest = const(0, a) if left else select(a < const(0, a), const(-1, a), const(0, a))
        return select(inside, shifted, rest)

    return elementwise(c.ctx, function, [c[0], c[1]], dtype, "bitshift")


def _fmod(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Compute C's fmod; TVM has the operator but no rule to lower it for CPUs."""
    kind = kind_of(a)
    return tirx.call_pure_extern(kind, "fmod" if kind == "float64" else "fmodf", a, b)


@converter("Mod")
def mod(c: Call) -> Operand:
    fmod = bool(c.attr("fmod", 0))
    data = c[0]
    if data.is_float:
        if not fmod:
            raise Declined("fmod=0 with floating-point inputs is not valid")
        kind = wide(data.dtype)
        return elementwise(c.ctx, lambda a, b: _fmod(a.astype(kind), b.astype(kind)), [data, c[1]], data.dtype, "mod")

    def remainder(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
        safe = select(tirx.EQ(b, const(0, b)), const(1, b), b)
        result = tirx.truncmod(a, safe)
        if fmod or data.dtype.startswith("uint"):
            return result
        other_sign = tirx.And(tirx.NE(result, const(0, a)), (result ^ safe) < const(0, a))
        return select(other_sign, result + safe, result)

    return elementwise(c.ctx, remainder, [data, c[1]], data.dtype, "mod")


@converter("Pow")
def power(c: Call) -> Operand:
    base, exponent = _legacy_broadcast(c)
    constant = exponent.array if exponent.is_constant and exponent.size == 1 else None
    kind = wide(base.dtype)
    if constant is not None and float(constant.reshape(-1)[0]) in (0.5, 1.0, 2.0, 3.0) and base.is_float:
        number = float(constant.reshape(-1)[0])
        simple = {1.0: lambda x: x, 2.0: lambda x: x * x, 3.0: lambda x: x * x * x, 0.5: tirx.sqrt}[number]
        if number != 0.5:
            rank = max(base.rank, exponent.rank)
            if rank == base.rank:
                return elementwise(c.ctx, lambda x: simple(x.astype(kind)), [base], base.dtype, "power")
    if not base.is_float and not exponent.is_float:
        return elementwise(c.ctx, _integer_power, [base, exponent], base.dtype, "power")
    # Integer powers are computed in float64, which represents every int32 exactly, and rounded towards zero.
    kind = kind if base.is_float else "float64"
    return elementwise(
        c.ctx, lambda a, b: tirx.power(a.astype(kind), b.astype(kind)), [base, exponent], base.dtype, "power"
    )


def _integer_power(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Square and multiply over the six low bits of the exponent. 0 and +-1 allow any other exponent too.

    For a negative exponent, the reciprocal is rounded towards zero.
    """
    result, square = const(1, a), a
    for bit in range(6):
        result = select(tirx.NE(b & const(1 << bit, b), const(0, b)), result * square, result)
        square = square * square
    one, zero, odd = const(1, a), const(0, a), tirx.NE(b & const(1, b), const(0, b))
    if not kind_of(b).startswith("u"):
        result = select(b < const(0, b), zero, result)
    result = select(tirx.And(tirx.EQ(a, zero), tirx.NE(b, const(0, b))), zero, result)
    result = select(tirx.EQ(a, one), one, result)
    if kind_of(a).startswith("u"):
        return result
    return select(tirx.EQ(a, const(-1, a)), select(odd, const(-1, a), one), result)


@converter("PRelu")
def prelu(c: Call) -> Operand:
    data, slope = c[0], c[1]
    if c.version < 7 and slope.rank == 1 and slope.size != 1:
        slope = reshape_to(c.ctx, slope, [*slope.shape, *[1] * (data.rank - 2)])
    kind = wide(data.dtype)

    def function(x: tirx.Expr, s: tirx.Expr) -> tirx.Expr:
        x = x.astype(kind)
        return select(x < const(0, x), x * opaque_zero(s.astype(kind)), x)

    return elementwise(c.ctx, function, [data, slope], data.dtype, "prelu")


@converter("Where")
def where(c: Call) -> Operand:
    return elementwise(c.ctx, select, [c[0], c[1], c[2]], c[1].dtype, "where")


def _variadic(op: str, function: Function, *, mean: bool = False) -> None:
    @converter(op)
    def convert(c: Call) -> Operand:
        operands = [operand for operand in c.inputs if operand is not None]
        kind = wide(operands[0].dtype)

        def fold(*values: tirx.Expr) -> tirx.Expr:
            total = functools.reduce(function, [value.astype(kind) for value in values])
            return total / const(len(values), total) if mean else total

        return elementwise(c.ctx, fold, operands, operands[0].dtype, op.lower())


_variadic("Max", maximum)


_variadic("Min", minimum)


_variadic("Sum", lambda a, b: a + b)


_variadic("Mean", lambda a, b: a + b, mean=True)


@converter("Clip")
def clip(c: Call) -> Operand:
    data = c[0]
    low, high = c.input(1), c.input(2)
    if c.version < 11:
        low = None if c.attr("min") is None else c.ctx.constant(c.attr("min"), data.dtype)
        high = None if c.attr("max") is None else c.ctx.constant(c.attr("max"), data.dtype)
    # An omitted bound is the largest finite number of its sign, not infinity: of float32, to which ONNX Runtime
    # converts float16 before opset 12.
    if data.is_float and not (data.dtype == "float16" and c.version < 12):
        low = low or c.ctx.constant(float(ml_dtypes.finfo(data.dtype).min), data.dtype)
        high = high or c.ctx.constant(float(ml_dtypes.finfo(data.dtype).max), data.dtype)
    operands = [data, *(bound for bound in (low, high) if bound is not None)]

    def function(x: tirx.Expr, *bounds: tirx.Expr) -> tirx.Expr:
        rest = list(bounds)
        if low is not None:
            bound = rest.pop(0)
            x = select(x < bound, bound, x)
        if high is not None:
            bound = rest.pop(0)
            x = select(bound < x, bound, x)
        return x

    return elementwise(c.ctx, function, operands, data.dtype, "clip")
