"""Vectorizable sine and cosine of float32, accurate for arguments of any size."""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx

from graphopt.targets.tvm.kernels.common.math import ROUNDER, bits, f32, horner, let, nearest

Expr = Any

_TWO_OVER_PI = 0xA2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE51  # the first 208 bits after the point
_WIDTH = 29
"""The bits of a part of 2 / pi: its product with the 24 of a float32 fits into the 53 of a float64."""
_LARGE = 5
"""The number of parts whose products with a float32 may be whole turns."""
_SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)


def _parts() -> list[float]:
    """Return 2 / pi as a sum of numbers of `_WIDTH` bits each, the last of which matters for the largest float32."""
    count = 208 // _WIDTH
    wholes = [_TWO_OVER_PI >> (208 - _WIDTH * (i + 1)) & ((1 << _WIDTH) - 1) for i in range(count)]
    return [math.ldexp(whole, -_WIDTH * (i + 1)) for i, whole in enumerate(wholes)]


def _f64(value: float) -> Expr:
    return tirx.const(value, "float64")


def _quarters(x: Expr) -> Expr:
    """Return `x` in quarters of a turn, as float64, minus whole turns.

    The product with every part of 2 / pi is exact, and so is its remainder modulo 4.
    """
    total: Expr = _f64(0)
    for i, part in enumerate(_parts()):
        product = x * _f64(part)
        if i < _LARGE:
            product = let(product, lambda p: p - nearest(p * _f64(0.25)) * _f64(4))
        total = product + total
    return total


def _wave(x: Expr, ahead: int) -> Expr:
    """Return the sine of `x` and `ahead` quarters of a turn."""

    def from_parts(turns: Expr, whole: Expr) -> Expr:
        r = ((turns - whole) * _f64(math.pi / 2)).astype("float32")
        quarter = whole.astype("float32") + f32(ROUNDER + ahead)  # its low bits are a whole number
        return let(quarter, lambda q: let(r, lambda r: of_quarter(r, q)))

    def of_quarter(r: Expr, q: Expr) -> Expr:
        def one(z: Expr) -> Expr:
            sine = horner(z, _SIN) * z * r + r
            cosine = horner(z, _COS) * z * z - f32(0.5) * z + f32(1)
            value = tirx.Select(_has(q, 1), cosine, sine)
            return let(value, lambda v: tirx.Select(_has(q, 2), f32(0) - v, v))

        return let(r * r, one)

    return let(_quarters(x.astype("float64")), lambda t: let(nearest(t), lambda whole: from_parts(t, whole)))


def _has(number: Expr, bit: int) -> Expr:
    return tirx.NE(tirx.bitwise_and(bits(number), tirx.const(bit, "int32")), tirx.const(0, "int32"))


def sin(x: Expr) -> Expr:
    """Return the sine; NaN for infinities. Largest error 3 ulp."""
    return let(x, lambda x: _wave(x, 0))


def cos(x: Expr) -> Expr:
    """Return the cosine; NaN for infinities. Largest error 3 ulp."""
    return let(x, lambda x: _wave(x, 1))
