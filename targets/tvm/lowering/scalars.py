"""Arithmetic on single host values: Python numbers, or symbolic expressions over the model's sizes.

A floating-point host value may be an *integer* expression: it then represents that whole number exactly. This keeps
`Shape -> Cast(float) -> Mul(2.0) -> Cast(int64)`, as exporters write resizing, an exact `2*n`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from graphopt.ir import DType
from graphopt.ir.algebra import Algebra, NotRepresentable, is_number
from graphopt.targets.tvm.lowering.symbols import Symbols

Scalar = Any
"""A bool, int, float or tirx expression."""


@dataclass(frozen=True)
class Scalars(Algebra):
    """Symbols are tirx expressions over the sizes of a model, simplified by what is known of those."""

    symbols: Symbols

    def symbolic(self, op: str, dtype: DType, *operands: Scalar) -> Scalar:
        """Return the expression for an operator on expressions and numbers."""
        match op:
            case "Add" | "Sub" | "Mul" | "Min" | "Max":
                return self._arithmetic(_FUNCTIONS[op], dtype, *operands)
            case "Neg":
                return -operands[0]
            case "Div":
                return self._real_quotient(*operands) if dtype.is_float else self._quotient(*operands)
            case "Mod":
                return self.symbols.simplify(tirx.floormod(*map(integer, operands)))
            case "Equal":
                return self._equal(*operands)
            case "Less":
                return self._less(*operands)
            case "Greater":
                return self._less(*reversed(operands))
            case "LessOrEqual":
                return self._not(self._less(*reversed(operands)))
            case "GreaterOrEqual":
                return self._not(self._less(*operands))
            case "Not":
                return self._not(operands[0])
            case "And" | "Or":
                return self.symbols.decide((tirx.And if op == "And" else tirx.Or)(*operands))
            case "Floor" | "Ceil":
                value = operands[0]
                return value if is_whole(value) else (tirx.floor if op == "Floor" else tirx.ceil)(value)
            case "Cast":
                return _cast(operands[0], dtype)
            case "Where":
                return self._choice(dtype, *operands)
        raise NotRepresentable

    def _arithmetic(self, function: Callable[..., Any], dtype: DType, a: Scalar, b: Scalar) -> Scalar:
        if not dtype.is_float or (is_whole(a) and is_whole(b)):
            return self.symbols.simplify(function(integer(_whole(a)), integer(_whole(b))))
        return function(real(a), real(b))

    def _real_quotient(self, a: Scalar, b: Scalar) -> Scalar:
        if is_whole(a) and is_whole(b):
            first, second = integer(_whole(a)), integer(_whole(b))
            if self.symbols.decide(tirx.EQ(tirx.floormod(first, second), integer(0))) is True:
                return self.symbols.simplify(tirx.floordiv(first, second))
        return real(a) / real(b)

    def _quotient(self, a: Scalar, b: Scalar) -> Scalar:
        """Divide as ONNX does: towards zero for integers."""
        if is_number(b) and b == 0:
            raise NotRepresentable
        a, b = integer(a), integer(b)
        positive = self.symbols.always(a >= 0) and self.symbols.always(b > 0)
        return self.symbols.simplify(tirx.floordiv(a, b) if positive else tirx.truncdiv(a, b))

    def _equal(self, a: Scalar, b: Scalar) -> Scalar:
        if any(not is_number(value) and str(value.ty.dtype) == "bool" for value in (a, b)):
            return tirx.EQ(_condition(a), _condition(b))
        if is_whole(a) and is_whole(b):
            return self.symbols.decide(tirx.EQ(integer(_whole(a)), integer(_whole(b))))
        return tirx.EQ(real(a), real(b))

    def _less(self, a: Scalar, b: Scalar) -> Scalar:
        if is_whole(a) and is_whole(b):
            return self.symbols.decide(tirx.LT(integer(_whole(a)), integer(_whole(b))))
        return tirx.LT(real(a), real(b))

    def _not(self, a: Scalar) -> Scalar:
        return not a if is_number(a) else self.symbols.decide(tirx.Not(a))

    def _choice(self, dtype: DType, condition: Scalar, a: Scalar, b: Scalar) -> Scalar:
        """Return `a` if the condition holds, else `b`; the condition may be known although `a` or `b` is not."""
        known = self.symbols.decide(condition)
        if isinstance(known, bool):
            return a if known else b
        if is_number(a) and is_number(b) and a == b:
            return a
        if not dtype.is_float or (is_whole(a) and is_whole(b)):
            return self.symbols.simplify(tirx.Select(condition, integer(_whole(a)), integer(_whole(b))))
        return tirx.Select(condition, real(a), real(b))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Min": tirx.min,
    "Max": tirx.max,
}


def is_whole(value: Scalar) -> bool:
    """Return whether it certainly is a whole number: an int, a float without fraction, or an integer expression."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) or str(value.ty.dtype) == "int64"


def _whole(value: Scalar) -> Scalar:
    return int(value) if isinstance(value, float) else value


def real(value: Scalar) -> tirx.Expr:
    """Return the value as a float32 expression."""
    if is_number(value):
        return tirx.const(float(value), "float32")
    return value if str(value.ty.dtype) == "float32" else value.astype("float32")


def integer(value: Scalar) -> tirx.Expr:
    """Return an integer value as an int64 expression."""
    if is_number(value):
        return tirx.const(int(value), "int64")
    return value if str(value.ty.dtype) == "int64" else value.astype("int64")


def _condition(value: Scalar) -> tirx.Expr:
    return tirx.const(value, "bool") if isinstance(value, bool) else value


def _cast(value: tirx.Expr, to: DType) -> Scalar:
    if to is DType.BOOL:
        kind = str(value.ty.dtype)
        return value if kind == "bool" else tirx.NE(value, tirx.const(0, kind))
    if to is DType.FLOAT:
        return value.astype("int64") if str(value.ty.dtype) == "bool" else value
    return integer(value)
