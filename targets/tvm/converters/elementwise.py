"""Operators that compute each element from the elements at the same place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tvm import tirx

from graphopt.targets.tvm.converters.call import Call
from graphopt.targets.tvm.converters.operand import Operand
from graphopt.targets.tvm.converters.registry import Declined, converter
from graphopt.targets.tvm.converters.tensors import elementwise, wide

Function = Callable[..., tirx.Expr]


def unary(op: str, function: Function, *, integer: Function | None = None) -> None:
    """Register a converter: `function` for floats, computed in the wide type; `integer` for integers."""

    @converter(op)
    def convert(c: Call) -> Operand:
        return apply_unary(c, function, integer)


def apply_unary(c: Call, function: Function, integer: Function | None = None) -> Operand:
    """`function` of the first input, in its own type."""
    data = c[0]
    if not data.is_float:
        chosen = integer or function
        return elementwise(c.ctx, chosen, [data], data.dtype, c.node.op_type.lower())
    kind = wide(data.dtype)
    return elementwise(c.ctx, lambda x: function(x.astype(kind)), [data], data.dtype, c.node.op_type.lower())


def const(value: Any, like: tirx.Expr) -> tirx.Expr:
    return tirx.const(value, kind_of(like))


def kind_of(x: tirx.Expr) -> str:
    return str(x.ty.dtype)


def select(condition: tirx.Expr, a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    return tirx.Select(condition, a, b)


def maximum(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """The larger value; NaN if either is NaN."""
    if not kind_of(a).startswith(("float", "bfloat")):
        return tirx.max(a, b)
    return select(tirx.isnan(a), a, select(a < b, b, select(tirx.isnan(b), b, a)))


def minimum(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """The smaller value; NaN if either is NaN."""
    if not kind_of(a).startswith(("float", "bfloat")):
        return tirx.min(a, b)
    return select(tirx.isnan(a), a, select(b < a, b, select(tirx.isnan(b), b, a)))


def relu(x: tirx.Expr) -> tirx.Expr:
    """max(x, 0) that keeps NaN: the comparison is false for it."""
    return select(x < const(0, x), const(0, x), x)


def sign(x: tirx.Expr) -> tirx.Expr:
    one, nil = const(1, x), const(0, x)
    if kind_of(x).startswith("uint"):
        return select(x > nil, one, nil)
    return select(x > nil, one, select(x < nil, const(-1, x), x))


def round_even(x: tirx.Expr) -> tirx.Expr:
    """To the nearest whole number, halves to the even one."""
    return tirx.nearbyint(x)


def sigmoid(x: tirx.Expr) -> tirx.Expr:
    return const(1, x) / (const(1, x) + tirx.exp(-x))


def softplus(x: tirx.Expr) -> tirx.Expr:
    """log(1 + exp(x)) in the form that does not overflow."""
    return tirx.max(x, const(0, x)) + tirx.log1p(tirx.exp(-tirx.abs(x)))


def gelu_erf(x: tirx.Expr) -> tirx.Expr:
    return const(0.5, x) * x * (const(1, x) + tirx.erf(x * const(0.7071067811865476, x)))


def gelu_tanh(x: tirx.Expr) -> tirx.Expr:
    inner = const(0.7978845608028654, x) * (x + const(0.044715, x) * x * x * x)
    return const(0.5, x) * x * (const(1, x) + tirx.tanh(inner))


for _op, _function in {
    "Exp": tirx.exp,
    "Log": tirx.log,
    "Sqrt": tirx.sqrt,
    "Sin": tirx.sin,
    "Cos": tirx.cos,
    "Tan": tirx.tan,
    "Asin": tirx.asin,
    "Acos": tirx.acos,
    "Atan": tirx.atan,
    "Sinh": tirx.sinh,
    "Cosh": tirx.cosh,
    "Asinh": tirx.asinh,
    "Acosh": tirx.acosh,
    "Atanh": tirx.atanh,
    "Tanh": tirx.tanh,
    "Erf": tirx.erf,
    "Sigmoid": sigmoid,
    "Softplus": softplus,
    "Reciprocal": lambda x: const(1, x) / x,
    "Softsign": lambda x: x / (const(1, x) + tirx.abs(x)),
    "HardSwish": lambda x: x * tirx.max(const(0, x), tirx.min(const(1, x), x / const(6, x) + const(0.5, x))),
    "Mish": lambda x: x * tirx.tanh(softplus(x)),
}.items():
    unary(_op, _function)

unary("Relu", relu)
unary("Neg", lambda x: -x)
unary("Abs", tirx.abs, integer=lambda x: x if kind_of(x).startswith("uint") else tirx.abs(x))
unary("Sign", sign)
unary("Floor", tirx.floor, integer=lambda x: x)
unary("Ceil", tirx.ceil, integer=lambda x: x)
unary("Round", round_even, integer=lambda x: x)
unary("Not", tirx.Not)
unary("BitwiseNot", tirx.bitwise_not)


def _with_attributes(op: str, function: Callable[..., tirx.Expr], **defaults: float) -> None:
    @converter(op)
    def convert(c: Call) -> Operand:
        values = {name: float(c.attr(name, default)) for name, default in defaults.items()}
        return apply_unary(c, functools.partial(function, **values))


def _elu(x: tirx.Expr, alpha: float) -> tirx.Expr:
    return select(x < const(0, x), const(alpha, x) * (tirx.exp(x) - const(1, x)), x)


def _celu(x: tirx.Expr, alpha: float) -> tirx.Expr:
    low = const(alpha, x) * (tirx.exp(x / const(alpha, x)) - const(1, x))
    return tirx.max(const(0, x), x) + tirx.min(const(0, x), low)


def _selu(x: tirx.Expr, alpha: float, gamma: float) -> tirx.Expr:
    low = const(alpha, x) * (tirx.exp(x) - const(1, x))
    return const(gamma, x) * select(x > const(0, x), x, low)


def _hard_sigmoid(x: tirx.Expr, alpha: float, beta: float) -> tirx.Expr:
    line = const(alpha, x) * x + const(beta, x)
    return tirx.max(const(0, x), tirx.min(const(1, x), line))


def _shrink(x: tirx.Expr, bias: float, lambd: float) -> tirx.Expr:
    high = select(x > const(lambd, x), x - const(bias, x), const(0, x))
    return select(x < const(-lambd, x), x + const(bias, x), high)


_with_attributes("Elu", _elu, alpha=1.0)
_with_attributes("Celu", _celu, alpha=1.0)
_with_attributes("Selu", _selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875)
_with_attributes("HardSigmoid", _hard_sigmoid, alpha=0.2, beta=0.5)
_with_attributes("LeakyRelu", lambda x, alpha: select(x < const(0, x), const(alpha, x) * x, x), alpha=0.01)
_with_attributes("ThresholdedRelu", lambda x, alpha: select(x > const(alpha, x), x, const(0, x)), alpha=1.0)
_with_attributes("Swish", lambda x, alpha: x * sigmoid(const(alpha, x) * x), alpha=1.0)
_with_attributes("Shrink", _shrink, bias=0.0, lambd=0.5)


@converter("Gelu")
def gelu(c: Call) -> Operand:
    return apply_unary(c, gelu_tanh if c.attr("approximate", "none") == "tanh" else gelu_erf)


@converter("IsNaN")
def is_nan(c: Call) -> Operand:
    kind = wide(c[0].dtype)
    return elementwise(c.ctx, lambda x: tirx.isnan(x.astype(kind)), [c[0]], "bool", "isnan")


@converter("IsInf")
def is_inf(c: Call) -> Operand:
    kind = wide(c[0].dtype)
    up, down = c.attr("detect_positive", 1), c.attr("detect_negative", 1)

    def function(x: tirx.Expr) -> tirx.Expr:
        x = x.astype(kind)
        infinity = tirx.const(float("inf"), kind)
        result = tirx.const(False, "bool")
        if up:
            result = tirx.EQ(x, infinity)
        if down:
            result = tirx.Or(result, tirx.EQ(x, -infinity))
        return result

    return elementwise(c.ctx, function, [c[0]], "bool", "isinf")


def _legacy_broadcast(c: Call) -> list[Operand]:
    """Operands of a binary operator; before opset 7, `axis` says where the second lines up with the first."""
    a, b = c[0], c[1]
    if c.version < 7 and c.attr("broadcast", 0) and c.attr("axis") is not None:
        axis = c.axis(a.rank)
        tail = a.rank - axis - b.rank
        from graphopt.targets.tvm.converters.shape import reshape_to

        b = reshape_to(c.ctx, b, [*b.shape, *[1] * tail])
    return [a, b]


def binary(op: str, function: Function, *, integer: Function | None = None, to: str | None = None) -> None:
    """Register a converter of two broadcast operands; `to` is the element type of the result if it differs."""

    @converter(op)
    def convert(c: Call) -> Operand:
        operands = _legacy_broadcast(c)
        dtype = operands[0].dtype
        kind = wide(dtype)
        chosen = integer if integer is not None and not operands[0].is_float else function
        name = op.lower()
        return elementwise(c.ctx, lambda a, b: chosen(a.astype(kind), b.astype(kind)), operands, to or dtype, name)


def integer_division(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Quotient towards zero. A divisor of zero gives 0: what hardware does then is no better defined by ONNX."""
    safe = select(tirx.EQ(b, const(0, b)), const(1, b), b)
    return select(tirx.EQ(b, const(0, b)), const(0, b), tirx.truncdiv(a, safe))


binary("Add", lambda a, b: a + b)
binary("Sub", lambda a, b: a - b)
binary("Mul", lambda a, b: a * b)
binary("Div", lambda a, b: a / b, integer=integer_division)
binary("Equal", tirx.EQ, to="bool")
binary("Less", tirx.LT, to="bool")
binary("LessOrEqual", tirx.LE, to="bool")
binary("Greater", tirx.GT, to="bool")
binary("GreaterOrEqual", tirx.GE, to="bool")
binary("And", tirx.And, to="bool")
binary("Or", tirx.Or, to="bool")
binary("Xor", lambda a, b: tirx.And(tirx.Or(a, b), tirx.Not(tirx.And(a, b))), to="bool")
binary("BitwiseAnd", lambda a, b: a & b)
binary("BitwiseOr", lambda a, b: a | b)
binary("BitwiseXor", lambda a, b: a ^ b)


@converter("BitShift")
def bit_shift(c: Call) -> Operand:
    left, dtype = c.attr("direction") == "LEFT", c[0].dtype
    bits = int(dtype.lstrip("uint"))
    signed = dtype.startswith("int")

    def function(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
        # Shifting by the width or more is undefined for the machine; here nothing, or only the sign, is left.
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
    """C's fmod; TVM has the operator but no rule that lowers it for CPUs."""
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
    # Integers are raised in float64, which holds every int32 exactly, and brought back towards zero.
    kind = kind if base.is_float else "float64"
    return elementwise(
        c.ctx, lambda a, b: tirx.power(a.astype(kind), b.astype(kind)), [base, exponent], base.dtype, "power"
    )


def _integer_power(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Square and multiply over the six low bits of the exponent: larger ones overflow unless the base is 0 or +-1."""
    result, square = const(1, a), a
    for bit in range(6):
        result = select(tirx.NE(b & const(1 << bit, b), const(0, b)), result * square, result)
        square = square * square
    return result


@converter("PRelu")
def prelu(c: Call) -> Operand:
    data, slope = c[0], c[1]
    if c.version < 7 and slope.rank == 1 and slope.size != 1:
        from graphopt.targets.tvm.converters.shape import reshape_to

        slope = reshape_to(c.ctx, slope, [*slope.shape, *[1] * (data.rank - 2)])
    kind = wide(data.dtype)

    def function(x: tirx.Expr, s: tirx.Expr) -> tirx.Expr:
        x = x.astype(kind)
        return select(x < const(0, x), x * s.astype(kind), x)

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
