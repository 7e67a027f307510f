"""Elementary functions of float32 that vectorize.

Polynomials of nearly the accuracy of libm (a few ulp; Cephes by S. Moshier, and Eigen's fits), right at zero,
infinities, NaN, for underflow and overflow. The errors stated are those of processors that multiply and add with one
rounding; where there are two (x86 without FMA), half an ulp comes on top.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from graphopt.targets.tvm.tir_passes.let import let

Expr = Any


def f32(value: float) -> Expr:
    return tirx.const(value, "float32")


def _signed(value: Expr, x: Expr) -> Expr:
    """`value` with its sign changed where `x` is negative."""
    return let(value, lambda v: tirx.Select(x < f32(0), f32(0) - v, v))


def horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    total = f32(coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + f32(coefficient)
    return total


ROUNDER = 12582912.0  # 1.5 * 2 ** 23: a number below 2 ** 22 added to it is rounded to a whole one in its low bits
_EXP = (1.3843552e-3, 8.3742421e-3, 4.1668009e-2, 0.16666430, 0.49999994, 1.0, 1.0)  # within 2e-9 up to ln 2 / 2
_WIDE_EXP = (1.9551670e-4, 1.4114905e-3, 8.3370572e-3, 4.1660536e-2, 0.16666572, 0.50000048, 1.0, 1.0)  # 1.2e-8, ln 2


def nearest(x: Expr) -> Expr:
    """The nearest whole number, of two the even one; TVM's vectorizer takes `nearbyint` apart into its elements."""
    return tirx.call_llvm_pure_intrin(str(x.ty.dtype), "llvm.nearbyint", x)


def bits(value: Expr) -> Expr:
    return tirx.reinterpret("int32", value)


def _reduced_exp(x: Expr, step: int, polynomial: Sequence[float], scaled: Callable[[Expr, Expr], Expr]) -> Expr:
    """e ** x as e ** r * 2 ** (step * n) with whole n and small r; `scaled` makes the product, of e ** r and 2 ** n.

    No step of it converts to an integer, which would be undefined for NaN: n is rounded in the low bits of a float, to
    which the bias of an exponent is added before, so that it need only be shifted to its place.
    """
    biased = ROUNDER + 127

    def result(x: Expr, rounded: Expr) -> Expr:
        n = rounded - f32(biased)
        r = x - n * f32(step * 0.693359375) - n * f32(step * -2.12194440e-4)
        power = tirx.reinterpret("float32", tirx.shift_left(bits(rounded), tirx.const(23, "int32")))
        return let(r, lambda r: scaled(horner(r, polynomial), power))

    return let(x * f32(math.log2(math.e) / step) + f32(biased), lambda rounded: result(x, rounded))


def _between(x: Expr, low: float, high: float) -> Expr:
    """`x` kept between two limits; the comparisons are written so that NaN stays NaN."""
    return let(tirx.Select(x > f32(high), f32(high), x), lambda below: tirx.Select(below < f32(low), f32(low), below))


def exp(x: Expr) -> Expr:
    """e ** x; subnormal results and overflow to infinity included. Largest error 2 ulp."""

    def inside(x: Expr) -> Expr:
        # Scaled in two steps: the power would leave the range of normal numbers for the largest and smallest results.
        return _reduced_exp(x, 2, _WIDE_EXP, lambda value, power: value * power * power)

    return let(_between(x, -104.0, 89.0), inside)


def exp_nonpositive(x: Expr) -> Expr:
    """e ** x for x that is not positive, in fewer operations; 0 where the result would be below 2 ** -126."""

    def whole(x: Expr) -> Expr:
        value = _reduced_exp(x, 1, _EXP, lambda value, power: value * power)
        return tirx.Select(x < f32(-87.336), f32(0), value)

    return let(x, whole)


def cosh(x: Expr) -> Expr:
    """Hyperbolic cosine. Halved before it is squared, so that it overflows only where the result does."""
    return let(exp(tirx.abs(x) * f32(0.5)), lambda root: f32(0.5) * root * root + f32(0.5) / root / root)


def sinh(x: Expr) -> Expr:
    """Hyperbolic sine."""

    def small(x: Expr) -> Expr:
        return let(x * x, lambda z: horner(z, (2.03721912945e-4, 8.33028376239e-3, 1.66667160211e-1)) * z * x + x)

    def large(x: Expr) -> Expr:
        root = exp(tirx.abs(x) * f32(0.5))
        return _signed(let(root, lambda root: f32(0.5) * root * root - f32(0.5) / root / root), x)

    return let(x, lambda x: tirx.Select(tirx.abs(x) < f32(1), small(x), large(x)))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e ** -x); 0 where the result would be below 2 ** -127. Largest error 3 ulp.

    At the lower limit 2 ** n is infinity already, and at the upper one e ** -x vanishes beside 1.
    """

    def inside(x: Expr) -> Expr:
        return f32(1) / (f32(1) + _reduced_exp(x, 1, _EXP, lambda value, power: value * power))

    return let(_between(f32(0) - x, -87.0, 88.8), inside)


def log1p(x: Expr) -> Expr:
    """log(1 + x), of which the part of x that rounding 1 + x loses is made good."""

    def whole(x: Expr, u: Expr) -> Expr:
        ordinary = tirx.And(x > f32(-1), x < f32(math.inf))
        lost = tirx.Select(ordinary, (x - (u - f32(1))) / u, f32(0))
        return log(u) + lost

    return let(x, lambda x: let(x + f32(1), lambda u: whole(x, u)))


def _odd_quotient(x: Expr, limit: float, above: Sequence[float], below: Sequence[float]) -> Expr:
    """x P(x * x) / Q(x * x), of x kept within the limit from which on the result does not change."""

    def quotient(x: Expr) -> Expr:
        return let(x * x, lambda z: x * horner(z, above) / horner(z, below))

    return let(_between(x, -limit, limit), quotient)


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent, as a quotient of polynomials (the fit of Eigen's `generic_fast_tanh_float`).

    Largest error 5 ulp, or 3e-7. From 10 on, where the quotient is certainly beyond 1, the result is exactly 1: GELU
    multiplies the rest by its operand.
    """
    above: tuple[float, ...]
    above = (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08)
    above = (*above, 1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03)
    below = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)

    def anything(x: Expr) -> Expr:
        tiny = tirx.abs(x) < f32(0.0004)
        quotient = let(_odd_quotient(x, 10.0, above, below), lambda y: _between(y, -1.0, 1.0))
        return tirx.Select(tiny, x, quotient)

    return let(x, anything)


def erf(x: Expr) -> Expr:
    """The error function, as a quotient of polynomials (the fit of Eigen's `generic_fast_erf`).

    Largest error 6 ulp, or 4e-7.
    """
    above = (2.1237322e-06, 2.8619796e-04, 3.6580483e-03, 5.2433021e-02, 1.87416077e-01, 1.1283791065)
    below = (3.8918573e-05, 1.14329602e-03, 1.47520881e-02, 1.12945676e-01, 4.99425799e-01, 1.0)
    return let(_odd_quotient(x, 3.832506856900711, above, below), lambda y: _between(y, -1.0, 1.0))


def log(x: Expr) -> Expr:
    """Natural logarithm: -infinity at zero, NaN below."""
    coefficients: tuple[float, ...]
    coefficients = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1)
    coefficients = (*coefficients, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)

    def series(m: Expr, e: Expr) -> Expr:
        z = m * m
        poly = horner(m, coefficients) * m * z + e * f32(-2.12194440e-4) - f32(0.5) * z
        return m + poly + e * f32(0.693359375)

    def reduced(x: Expr, shift: Expr) -> Expr:
        bits = tirx.reinterpret("int32", x)
        exponent = (tirx.shift_right(bits, tirx.const(23, "int32")) - tirx.const(126, "int32")).astype("float32")
        low = tirx.bitwise_or(tirx.bitwise_and(bits, tirx.const(0x007FFFFF, "int32")), tirx.const(0x3F000000, "int32"))
        mantissa = tirx.reinterpret("float32", low)  # in [0.5, 1)
        below = mantissa < f32(math.sqrt(0.5))
        m = tirx.Select(below, mantissa + mantissa, mantissa) - f32(1)
        e = tirx.Select(below, exponent - f32(1), exponent) - shift
        return let(m, lambda m: series(m, e))

    def positive(x: Expr) -> Expr:
        tiny = x < f32(1.17549435e-38)  # a subnormal number has no exponent of its own
        shift = tirx.Select(tiny, f32(23), f32(0))
        return let(tirx.Select(tiny, x * f32(2.0**23), x), lambda x: reduced(x, shift))

    def anything(x: Expr) -> Expr:
        special = tirx.Select(x == f32(0), f32(-math.inf), tirx.Select(x < f32(0), f32(math.nan), x))
        ordinary = tirx.And(x > f32(0), x < f32(math.inf))
        return tirx.Select(ordinary, positive(x), special)

    return let(x, anything)
