"""Arithmetic on single host values: Python numbers, or symbolic expressions over the model's sizes.

A floating-point host value may be an *integer* expression: it then stands for that whole number exactly. This keeps
`Shape -> Cast(float) -> Mul(2.0) -> Cast(int64)`, as exporters write resizing, an exact `2*n`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from graphopt.targets.tvm.lowering.symbols import Symbols

Scalar = Any
"""bool, int, float or a tirx expression."""


@dataclass(frozen=True)
class Arithmetic:
    """What operations need to know: how to prove things, and whether the values are floating-point."""

    symbols: Symbols
    is_float: bool


def is_number(value: Scalar) -> bool:
    return isinstance(value, bool | int | float)


def is_whole(value: Scalar) -> bool:
    """Whether it is a whole number for certain: an int, a float without fraction, or an integer expression."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) or str(value.ty.dtype) == "int64"


def _whole(value: Scalar) -> Scalar:
    return int(value) if isinstance(value, float) else value


def real(value: Scalar) -> tirx.Expr:
    """The value as a float32 expression."""
    if is_number(value):
        return tirx.const(float(value), "float32")
    return value if str(value.ty.dtype) == "float32" else value.astype("float32")


def integer(value: Scalar) -> tirx.Expr:
    """An integer value as an int64 expression."""
    if is_number(value):
        return tirx.const(int(value), "int64")
    return value if str(value.ty.dtype) == "int64" else value.astype("int64")


def _apply(c: Arithmetic, a: Scalar, b: Scalar, function: Any) -> Scalar:
    if is_number(a) and is_number(b):
        return function(a, b)
    if not c.is_float or (is_whole(a) and is_whole(b)):
        return c.symbols.simplify(function(integer(_whole(a)), integer(_whole(b))))
    return function(real(a), real(b))


def add(c: Arithmetic, a: Scalar, b: Scalar) -> Scalar:
    return _apply(c, a, b, lambda x, y: x + y)


def subtract(c: Arithmetic, a: Scalar, b: Scalar) -> Scalar:
    return _apply(c, a, b, lambda x, y: x - y)


def multiply(c: Arithmetic, a: Scalar, b: Scalar) -> Scalar:
    return _apply(c, a, b, lambda x, y: x * y)


def divide(c: Arithmetic, a: Scalar, b: Scalar) -> Scalar:
    """Division as ONNX has it: towards zero for integers."""
    if c.is_float:
        if is_number(a) and is_number(b):
            return a / b if b else math.nan
        if is_whole(a) and is_whole(b):
            exact = c.symbols.decide(tirx.EQ(tirx.floormod(integer(_whole(a)), integer(_whole(b))), integer(0)))
            if exact is True:
                return c.symbols.simplify(tirx.floordiv(integer(_whole(a)), integer(_whole(b))))
        return real(a) / real(b)
    if is_number(a) and is_number(b):
        if b == 0:
            raise ZeroDivisionError("an integer division by zero in the model's shape arithmetic")
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    a, b = integer(a), integer(b)
    positive = c.symbols.always(a >= 0) and c.symbols.always(b > 0)
    return c.symbols.simplify(tirx.floordiv(a, b) if positive else tirx.truncdiv(a, b))


def modulo(c: Arithmetic, a: Scalar, b: Scalar) -> Scalar:
    """The remainder with the sign of the divisor."""
    if is_number(a) and is_number(b):
        return a % b
    return c.symbols.simplify(tirx.floormod(integer(a), integer(b)))


def smaller(c: Arithmetic, a: Scalar, b: Scalar) -> Scalar:
    return min(a, b) if is_number(a) and is_number(b) else _apply(c, a, b, tirx.min)


def larger(c: Arithmetic, a: Scalar, b: Scalar) -> Scalar:
    return max(a, b) if is_number(a) and is_number(b) else _apply(c, a, b, tirx.max)


def _condition(value: Scalar) -> tirx.Expr:
    return tirx.const(value, "bool") if isinstance(value, bool) else value


def equal(c: Arithmetic, a: Scalar, b: Scalar) -> Scalar:
    if is_number(a) and is_number(b):
        return a == b
    if (not is_number(a) and str(a.ty.dtype) == "bool") or (not is_number(b) and str(b.ty.dtype) == "bool"):
        return tirx.EQ(_condition(a), _condition(b))
    if is_whole(a) and is_whole(b):
        return c.symbols.decide(tirx.EQ(integer(_whole(a)), integer(_whole(b))))
    return tirx.EQ(real(a), real(b))


def less(c: Arithmetic, a: Scalar, b: Scalar) -> Scalar:
    if is_number(a) and is_number(b):
        return a < b
    if is_whole(a) and is_whole(b):
        return c.symbols.decide(tirx.LT(integer(_whole(a)), integer(_whole(b))))
    return tirx.LT(real(a), real(b))


def negate(c: Arithmetic, a: Scalar) -> Scalar:
    return not a if is_number(a) else c.symbols.decide(tirx.Not(a))


def both(c: Arithmetic, a: Scalar, b: Scalar) -> Scalar:
    if is_number(a):
        return b if a else False
    if is_number(b):
        return a if b else False
    return c.symbols.decide(tirx.And(a, b))


def either(c: Arithmetic, a: Scalar, b: Scalar) -> Scalar:
    if is_number(a):
        return True if a else b
    if is_number(b):
        return True if b else a
    return c.symbols.decide(tirx.Or(a, b))


def floor(value: Scalar, *, up: bool = False) -> Scalar:
    """Rounded down (or up) to a whole number; a float stays a float."""
    if isinstance(value, float):
        return float(math.ceil(value) if up else math.floor(value)) if math.isfinite(value) else value
    if is_number(value) or is_whole(value):
        return value
    return tirx.ceil(value) if up else tirx.floor(value)


def cast(value: Scalar, to: str) -> Scalar:
    """Converted to int64, int32, float32 or bool."""
    if to == "bool":
        return bool(value) if is_number(value) else _nonzero(value)
    if is_number(value):
        return float(value) if to == "float32" else int(value)
    if to == "float32":
        return value.astype("int64") if str(value.ty.dtype) == "bool" else value
    return integer(value)


def _nonzero(value: tirx.Expr) -> tirx.Expr:
    kind = str(value.ty.dtype)
    return value if kind == "bool" else tirx.NE(value, tirx.const(0, kind))


def choose(c: Arithmetic, condition: Scalar, a: Scalar, b: Scalar) -> Scalar:
    """`a` where the condition holds, else `b`."""
    if is_number(condition):
        return a if condition else b
    known = c.symbols.decide(condition)
    if isinstance(known, bool):
        return a if known else b
    if is_number(a) and is_number(b) and a == b:
        return a
    if not c.is_float or (is_whole(a) and is_whole(b)):
        return c.symbols.simplify(tirx.Select(condition, integer(_whole(a)), integer(_whole(b))))
    return tirx.Select(condition, real(a), real(b))
