"""Elementary functions of float32 that vectorize, and maximum and minimum that keep NaN.

LLVM has no vector exp, tanh, erf or log of its own: TVM's calls become one libm call per element. `expand` replaces
them in a function by polynomials of nearly the same accuracy (a few ulp; Cephes by S. Moshier, and Eigen's fits),
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


_ROUNDER = 12582912.0  # 1.5 * 2 ** 23: a number below 2 ** 22 added to it is rounded to a whole one in its low bits
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)


def _bits(value: Expr) -> Expr:
    return tirx.reinterpret("int32", value)


def _power_of_two(exponent: Expr) -> Expr:
    """2 ** exponent, of an int32 of which bits above the lowest nine are ignored."""
    shifted = tirx.shift_left(exponent, tirx.const(23, "int32"))
    return tirx.reinterpret("float32", shifted + tirx.const(127 << 23, "int32"))


def _reduced_exp(x: Expr, scaled: Callable[[Expr, Expr], Expr]) -> Expr:
    """e ** x as e ** r * 2 ** n with whole n and small r; `scaled` makes the product, of e ** r and `_ROUNDER` + n.

    No step of it converts to an integer, which would be undefined for NaN.
    """

    def result(x: Expr, rounded: Expr) -> Expr:
        n = rounded - _f32(_ROUNDER)
        r = x - n * _f32(0.693359375) - n * _f32(-2.12194440e-4)
        return _let(r, lambda r: scaled(_horner(r, _EXP) * (r * r) + r + _f32(1), rounded))

    return _let(x * _f32(math.log2(math.e)) + _f32(_ROUNDER), lambda rounded: result(x, rounded))


def exp(x: Expr) -> Expr:
    """e ** x; subnormal results and overflow to infinity included. Largest error 1.6 ulp."""

    def scaled(value: Expr, rounded: Expr) -> Expr:
        # In two steps: 2 ** n alone would leave the range of normal numbers for the largest and smallest results.
        whole = _bits(rounded) - tirx.const(0x4B400000, "int32")
        half = tirx.shift_right(whole, tirx.const(1, "int32"))
        return value * _power_of_two(half) * _power_of_two(whole - half)

    def clamped(x: Expr) -> Expr:
        # Comparisons are written so that NaN stays NaN.
        high = tirx.Select(x > _f32(89), _f32(89), x)
        return _let(high, lambda high: _let(tirx.Select(high < _f32(-104), _f32(-104), high), inside))

    def inside(x: Expr) -> Expr:
        return _reduced_exp(x, scaled)

    return _let(x, clamped)


def exp_nonpositive(x: Expr) -> Expr:
    """e ** x for x that is not positive, in fewer operations; 0 where the result would be below 2 ** -126."""

    def whole(x: Expr) -> Expr:
        value = _reduced_exp(x, lambda value, rounded: value * _power_of_two(_bits(rounded)))
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


def _clamped(x: Expr, limit: float) -> Expr:
    """`x` between -limit and limit; the comparisons are written so that NaN stays NaN."""
    high = tirx.Select(x > _f32(limit), _f32(limit), x)
    return _let(high, lambda high: tirx.Select(high < _f32(-limit), _f32(-limit), high))


def _odd_quotient(x: Expr, limit: float, above: Sequence[float], below: Sequence[float]) -> Expr:
    """x P(x * x) / Q(x * x), of x kept within the limit from which on the result is 1."""

    def quotient(x: Expr) -> Expr:
        return _let(x * x, lambda z: x * _horner(z, above) / _horner(z, below))

    return _let(_clamped(x, limit), quotient)


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent, as a quotient of polynomials (the fit of Eigen's `generic_fast_tanh_float`).

    Largest error 5 ulp, or 3e-7.
    """
    above: tuple[float, ...]
    above = (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08)
    above = (*above, 1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03)
    below = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)

    def anything(x: Expr) -> Expr:
        tiny = tirx.abs(x) < _f32(0.0004)
        return tirx.Select(tiny, x, _odd_quotient(x, 7.90531110763549805, above, below))

    return _let(x, anything)


def erf(x: Expr) -> Expr:
    """The error function, as a quotient of polynomials (the fit of Eigen's `generic_fast_erf`).

    Largest error 6 ulp, or 4e-7.
    """
    above = (2.1237322e-06, 2.8619796e-04, 3.6580483e-03, 5.2433021e-02, 1.87416077e-01, 1.1283791065)
    below = (3.8918573e-05, 1.14329602e-03, 1.47520881e-02, 1.12945676e-01, 4.99425799e-01, 1.0)
    return _let(_odd_quotient(x, 3.832506856900711, above, below), lambda y: _clamped(y, 1.0))


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
