"""Unary elementwise operators, and the elementary functions they use."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx

from graphopt.targets.tvm.converters.tensors import elementwise, wide
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.operand import Operand
from graphopt.targets.tvm.lowering.registry import converter

Function = Callable[..., tirx.Expr]


def unary(op: str, function: Function, *, integer: Function | None = None) -> None:
    """Register a converter: `function` for floats, computed in the wide type; `integer` for integers."""

    @converter(op)
    def convert(c: Call) -> Operand:
        return apply_unary(c, function, integer)


def apply_unary(c: Call, function: Function, integer: Function | None = None) -> Operand:
    """Apply `function` to the first input, in its own type."""
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


def opaque_zero(x: tirx.Expr) -> tirx.Expr:
    """Hide a float zero from TVM, which simplifies x * 0 and 0 / x to 0, x + 0 to x, and fails on x / 0.

    This violates IEEE 754 if x is NaN, an infinity or -0.
    """
    if not isinstance(x, tirx.FloatImm) or x.value != 0 or kind_of(x) not in INTEGER_OF:
        return x
    kind, integer = kind_of(x), INTEGER_OF[kind_of(x)]
    negative = tirx.reinterpret(kind, tirx.const(int(np.iinfo(integer).min), integer))
    return negative if math.copysign(1, x.value) < 0 else tirx.abs(negative)


INTEGER_OF = {"float16": "int16", "float32": "int32", "float64": "int64"}
"""The integer type as wide as each float type, for expressing floats by their bits."""


def opaque(x: tirx.Expr) -> tirx.Expr:
    """Hide a divisor from TVM, which divides by each branch of a choice, and fails if one is a float zero."""
    kind = kind_of(x)
    if isinstance(x, tirx.FloatImm) or kind not in INTEGER_OF:
        return opaque_zero(x)
    return tirx.reinterpret(kind, tirx.reinterpret(INTEGER_OF[kind], x))


def factor(value: float, like: tirx.Expr) -> tirx.Expr:
    """Return an attribute to multiply or divide by, as a constant of the type of `like`."""
    return opaque_zero(const(value, like))


def select(condition: tirx.Expr, a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    return tirx.Select(condition, a, b)


def maximum(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Return the larger value; NaN if either is NaN."""
    if not kind_of(a).startswith(("float", "bfloat")):
        return tirx.max(a, b)
    return select(tirx.Or(a > b, tirx.isnan(a)), a, b)  # where b is NaN, the comparison is false


def minimum(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Return the smaller value; NaN if either is NaN."""
    if not kind_of(a).startswith(("float", "bfloat")):
        return tirx.min(a, b)
    return select(tirx.Or(a < b, tirx.isnan(a)), a, b)


def relu(x: tirx.Expr) -> tirx.Expr:
    """Compute max(x, 0), keeping NaN, for which the comparison is false."""
    return select(x < const(0, x), const(0, x), x)


def sign(x: tirx.Expr) -> tirx.Expr:
    one, nil = const(1, x), const(0, x)
    if kind_of(x).startswith("uint"):
        return select(x > nil, one, nil)
    return select(x > nil, one, select(x < nil, const(-1, x), x))


def round_even(x: tirx.Expr) -> tirx.Expr:
    """Round to the nearest whole number, halves to the even one."""
    return tirx.nearbyint(x)


def sigmoid(x: tirx.Expr) -> tirx.Expr:
    return tirx.sigmoid(x)


def softplus(x: tirx.Expr) -> tirx.Expr:
    """Compute log(1 + exp(x)) in a form that does not overflow."""
    return tirx.max(x, const(0, x)) + tirx.log1p(tirx.exp(-tirx.abs(x)))


def mish(x: tirx.Expr) -> tirx.Expr:
    """Compute x tanh(log(1 + e ** x)) as a quotient in e ** x; from 20 on that is x."""
    root = tirx.exp(select(x > const(20, x), const(20, x), x))
    above = root * (root + const(2, x))
    return x * (above / (above + const(2, x)))


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
    "Reciprocal": lambda x: const(1, x) / opaque(x),
    "Softsign": lambda x: x / (const(1, x) + tirx.abs(x)),
    "HardSwish": lambda x: x * tirx.max(const(0, x), tirx.min(const(1, x), x / const(6, x) + const(0.5, x))),
    "Mish": mish,
}.items():
    unary(_op, _function)


unary("Relu", relu)


unary("Neg", lambda x: -x)


unary("Abs", tirx.abs, integer=lambda x: x if kind_of(x).startswith("uint") else tirx.abs(x))


unary("Sign", sign)


unary("Floor", tirx.floor, integer=lambda x: x)


unary("Ceil", tirx.ceil, integer=lambda x: x)


unary("Round", round_even, integer=lambda x: x)


# Not `tirx.Not`: TVM's simplifier turns `not a < b` into `b <= a`, which differs if one is NaN.
unary("Not", lambda x: x ^ tirx.const(True, "bool"))


unary("BitwiseNot", tirx.bitwise_not)


def _with_attributes(op: str, function: Callable[..., tirx.Expr], **defaults: float) -> None:
    @converter(op)
    def convert(c: Call) -> Operand:
        values = {name: float(c.attr(name, default)) for name, default in defaults.items()}
        return apply_unary(c, functools.partial(function, **values))


def _elu(x: tirx.Expr, alpha: float) -> tirx.Expr:
    return select(x < const(0, x), factor(alpha, x) * (tirx.exp(x) - const(1, x)), x)


def _celu(x: tirx.Expr, alpha: float) -> tirx.Expr:
    low = factor(alpha, x) * (tirx.exp(x / factor(alpha, x)) - const(1, x))
    return tirx.max(const(0, x), x) + tirx.min(const(0, x), low)


def _selu(x: tirx.Expr, alpha: float, gamma: float) -> tirx.Expr:
    low = factor(alpha, x) * (tirx.exp(x) - const(1, x))
    return factor(gamma, x) * select(x > const(0, x), x, low)


def _hard_sigmoid(x: tirx.Expr, alpha: float, beta: float) -> tirx.Expr:
    line = factor(alpha, x) * x + const(beta, x)
    return tirx.max(const(0, x), tirx.min(const(1, x), line))


def _shrink(x: tirx.Expr, bias: float, lambd: float) -> tirx.Expr:
    dtype = str(x.ty.dtype)
    if not dtype.startswith(("float", "bfloat")):  # as in ONNX Runtime: `bias` and `lambd` may have a fraction
        return _shrink(x.astype("float32"), bias, lambd).astype(dtype)
    high = select(x > const(lambd, x), x - const(bias, x), const(0, x))
    return select(x < const(-lambd, x), x + const(bias, x), high)


_with_attributes("Elu", _elu, alpha=1.0)


_with_attributes("Celu", _celu, alpha=1.0)


_with_attributes("Selu", _selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875)


_with_attributes("HardSigmoid", _hard_sigmoid, alpha=0.2, beta=0.5)


_with_attributes("LeakyRelu", lambda x, alpha: select(x < const(0, x), factor(alpha, x) * x, x), alpha=0.01)


_with_attributes("ThresholdedRelu", lambda x, alpha: select(x > const(alpha, x), x, const(0, x)), alpha=1.0)


_with_attributes("Swish", lambda x, alpha: x * sigmoid(factor(alpha, x) * x), alpha=1.0)


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
