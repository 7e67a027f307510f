"""Elementary functions of float32 that vectorize, and maximum and minimum that keep NaN.

LLVM has no vector exp, tanh, erf or log of its own: TVM's calls become one libm call per element. `expand` replaces
them in a function by polynomials of the same accuracy (a few ulp; Cephes by S. Moshier, and for erf N. Juffa's fit),
right at zero, infinities, NaN, for underflow and overflow. fp16 goes through float32; float64 keeps libm. TVM's own
max(a, b) is `a > b ? a : b`, which forgets a NaN in `a`; ONNX operators pass it on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi
from tvm import ir, tirx

Expr = Any


def _f32(value: float) -> Expr:
    return tirx.const(value, "float32")


def _let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """`body` of `value`, which is computed once.

    An expression that holds a `Let` must not occur twice in another: TVM may simplify the two differently, and then
    refuses one variable with two values.
    """
    var = tirx.Var("t", str(value.ty.dtype))
    return tirx.Let(var, value, body(var))


def _signed(value: Expr, x: Expr) -> Expr:
    """`value` with its sign changed where `x` is negative."""
    return _let(value, lambda v: tirx.Select(x < _f32(0), _f32(0) - v, v))


def _horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    total = _f32(coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + _f32(coefficient)
    return total


def _power_of_two(exponent: Expr) -> Expr:
    """2 ** exponent (int32, -127 to 128)."""
    return tirx.reinterpret("float32", tirx.shift_left(exponent + tirx.const(127, "int32"), tirx.const(23, "int32")))


def exp(x: Expr) -> Expr:
    """e ** x; subnormal results and overflow to infinity included."""

    def scaled(x: Expr, n: Expr) -> Expr:
        r = x - n * _f32(0.693359375) - n * _f32(-2.12194440e-4)
        coefficients = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
        whole = n.astype("int32")
        half = tirx.shift_right(whole, tirx.const(1, "int32"))
        # In two steps: 2 ** n alone would leave the range of normal numbers for the largest and smallest results.
        return _let(
            r,
            lambda r: (
                (_horner(r, coefficients) * r * r + r + _f32(1)) * _power_of_two(half) * _power_of_two(whole - half)
            ),
        )

    def finite(x: Expr) -> Expr:
        return _let(tirx.floor(x * _f32(math.log2(math.e)) + _f32(0.5)), lambda n: scaled(x, n))

    def clamped(x: Expr) -> Expr:
        raised = tirx.Select(x > _f32(-104), x, _f32(-104))
        return _let(raised, lambda low: _let(tirx.Select(low < _f32(89), low, _f32(89)), finite))

    # NaN compares false with everything, so it becomes -104 in the clamp, never an invalid integer. (`x != x` in
    # place of `isnan` would be simplified away.)
    return _let(x, lambda x: tirx.Select(tirx.isnan(x), x, clamped(x)))


def exp_nonpositive(x: Expr) -> Expr:
    """e ** x for x that is not positive, in half the operations; 0 where the result would be below 2 ** -126."""

    def scaled(x: Expr, n: Expr) -> Expr:
        r = x - n * _f32(0.693359375) - n * _f32(-2.12194440e-4)
        coefficients = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
        power = _power_of_two(n.astype("int32"))
        return _let(r, lambda r: (_horner(r, coefficients) * r * r + r + _f32(1)) * power)

    def whole(x: Expr) -> Expr:
        # NaN is kept: it compares false, and what it is multiplied with does not matter.
        value = _let(tirx.floor(x * _f32(math.log2(math.e)) + _f32(0.5)), lambda n: scaled(x, n))
        return tirx.Select(x < _f32(-87.336), _f32(0), value)

    return _let(x, whole)


def cosh(x: Expr) -> Expr:
    """Hyperbolic cosine. Halved before it is squared, so that it overflows only where the result does."""
    return _let(exp(tirx.abs(x) * _f32(0.5)), lambda root: _f32(0.5) * root * root + _f32(0.5) / root / root)


def sinh(x: Expr) -> Expr:
    """Hyperbolic sine."""

    def small(x: Expr) -> Expr:
        return _let(x * x, lambda z: _horner(z, (2.03721912945e-4, 8.33028376239e-3, 1.66667160211e-1)) * z * x + x)

    def large(x: Expr) -> Expr:
        root = exp(tirx.abs(x) * _f32(0.5))
        return _signed(_let(root, lambda root: _f32(0.5) * root * root - _f32(0.5) / root / root), x)

    return _let(x, lambda x: tirx.Select(tirx.abs(x) < _f32(1), small(x), large(x)))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e ** -x)."""
    return _f32(1) / (_f32(1) + exp(_f32(0) - x))


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent."""
    coefficients = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)

    def small(x: Expr) -> Expr:
        return _let(x * x, lambda z: _horner(z, coefficients) * z * x + x)

    def large(x: Expr) -> Expr:
        value = _f32(1) - _f32(2) / (exp(tirx.abs(x) * _f32(2)) + _f32(1))
        return _signed(value, x)

    return _let(x, lambda x: tirx.Select(tirx.abs(x) < _f32(0.625), small(x), large(x)))


def erf(x: Expr) -> Expr:
    """The error function."""
    tail: tuple[float, ...]
    tail = (-1.72853470e-5, 3.83197126e-4, -3.88396438e-3, 2.42546219e-2, -1.06777877e-1, -6.34846687e-1)
    tail = (*tail, -1.28717512e-1)
    body = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)

    def large(x: Expr) -> Expr:
        size = tirx.abs(x)
        # erf(4) rounds to 1. The comparison is written so that NaN stays NaN.
        value = _let(tirx.Select(size > _f32(4), _f32(4), size), lambda t: _f32(1) - exp(_horner(t, tail) * t - t))
        return _signed(value, x)

    def small(x: Expr) -> Expr:
        return _horner(x * x, body) * x + x

    return _let(x, lambda x: tirx.Select(tirx.abs(x) < _f32(0.927734375), small(x), large(x)))


def log(x: Expr) -> Expr:
    """Natural logarithm: -infinity at zero, NaN below."""
    coefficients: tuple[float, ...]
    coefficients = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1)
    coefficients = (*coefficients, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)

    def series(m: Expr, e: Expr) -> Expr:
        z = m * m
        poly = _horner(m, coefficients) * m * z + e * _f32(-2.12194440e-4) - _f32(0.5) * z
        return m + poly + e * _f32(0.693359375)

    def reduced(x: Expr, shift: Expr) -> Expr:
        bits = tirx.reinterpret("int32", x)
        exponent = (tirx.shift_right(bits, tirx.const(23, "int32")) - tirx.const(126, "int32")).astype("float32")
        low = tirx.bitwise_or(tirx.bitwise_and(bits, tirx.const(0x007FFFFF, "int32")), tirx.const(0x3F000000, "int32"))
        mantissa = tirx.reinterpret("float32", low)  # in [0.5, 1)
        below = mantissa < _f32(math.sqrt(0.5))
        m = tirx.Select(below, mantissa + mantissa, mantissa) - _f32(1)
        e = tirx.Select(below, exponent - _f32(1), exponent) - shift
        return _let(m, lambda m: series(m, e))

    def positive(x: Expr) -> Expr:
        tiny = x < _f32(1.17549435e-38)  # a subnormal number has no exponent of its own
        shift = tirx.Select(tiny, _f32(23), _f32(0))
        return _let(tirx.Select(tiny, x * _f32(2.0**23), x), lambda x: reduced(x, shift))

    def anything(x: Expr) -> Expr:
        special = tirx.Select(x == _f32(0), _f32(-math.inf), tirx.Select(x < _f32(0), _f32(math.nan), x))
        ordinary = tirx.And(x > _f32(0), x < _f32(math.inf))
        return tirx.Select(ordinary, positive(x), special)

    return _let(x, anything)


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger of two; NaN if either is."""
    return _let(a, lambda a: _let(b, lambda b: tirx.Select(tirx.Or(a > b, tirx.isnan(a)), a, b)))


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller of two; NaN if either is."""
    return _let(a, lambda a: _let(b, lambda b: tirx.Select(tirx.Or(a < b, tirx.isnan(a)), a, b)))


FUNCTIONS: dict[str, Callable[[Expr], Expr]] = {
    "tirx.exp": exp,
    "tirx.sigmoid": sigmoid,
    "tirx.tanh": tanh,
    "tirx.cosh": cosh,
    "tirx.sinh": sinh,
    "tirx.erf": erf,
    "tirx.log": log,
}


def _expand_call(call: ir.Call) -> Expr:
    make = FUNCTIONS.get(getattr(call.op, "name", ""))
    if make is None:
        return call
    dtype = str(call.ty.dtype)
    if dtype == "float32":
        return make(call.args[0])
    if dtype in ("float16", "bfloat16"):
        return make(call.args[0].astype("float32")).astype(dtype)
    return call


def _is_float(value: Expr) -> bool:
    return str(value.ty.dtype).startswith(("float", "bfloat"))


def expand_functions(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` with elementary functions of float32 and fp16 replaced by polynomials."""
    return func.with_body(tvm_ffi.structural_map(func.body, (ir.Call, _expand_call), order="post"))


def keep_nan(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` with every floating-point max and min passing NaN on."""
    kinds = [
        (tirx.Max, lambda node: maximum(node.a, node.b) if _is_float(node.a) else node),
        (tirx.Min, lambda node: minimum(node.a, node.b) if _is_float(node.a) else node),
    ]
    return func.with_body(tvm_ffi.structural_map(func.body, kinds, order="post"))
