"""Arithmetic on single elements of shape computations: numbers follow ONNX, symbols follow an algebra."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from .types import DType

Element = Any
"""A Python bool, int or float, or an algebra's symbol for a number that is not known yet."""


class NotRepresentable(Exception):
    """Raised if the result is not a number of its type: an integer that overflows or is divided by zero."""


def is_number(element: Element) -> bool:
    """Return whether an element is a known number."""
    return isinstance(element, bool | int | float)


class Algebra(ABC):
    """Element-by-element operators, with ONNX's names, on numbers and on symbols for numbers.

    Numbers are computed here, in the precision of their type. A subclass defines the symbols and their arithmetic.
    """

    @abstractmethod
    def symbolic(self, op: str, dtype: DType, *operands: Element) -> Element:
        """Return the result of an operator with at least one symbolic operand; `dtype` as in `apply`."""

    def apply(self, op: str, dtype: DType, *operands: Element) -> Element:
        """Return the result of an operator on single elements.

        `dtype` is the type of the operands; for Cast that of the result, for Where that of the choices. Raises
        NotRepresentable if the result is not a number of that type.
        """
        if all(is_number(operand) for operand in operands):
            return _fitting(_NUMBERS[op](*operands), dtype) if op in _ARITHMETIC else _number(op, dtype, operands)
        first = operands[0]
        if op == "Where" and is_number(first):
            return operands[1] if first else operands[2]
        if op in ("And", "Or"):
            symbol, number = operands if is_number(operands[1]) else operands[::-1]
            if is_number(number):
                return symbol if bool(number) == (op == "And") else op == "Or"
        return self.symbolic(op, dtype, *operands)


def _number(op: str, dtype: DType, operands: tuple[Element, ...]) -> Element:
    if op == "Cast":
        return _cast(operands[0], dtype)
    if op == "Div":
        return _fitting(_divided(*operands), dtype)
    if op == "Mod":
        if operands[1] == 0:
            raise NotRepresentable
        return operands[0] % operands[1]
    if op in ("Floor", "Ceil"):
        value = operands[0]
        return float((np.floor if op == "Floor" else np.ceil)(value)) if isinstance(value, float) else value
    if op == "Where":
        return operands[1] if operands[0] else operands[2]
    return _NUMBERS[op](*operands)


def _fitting(number: Element, dtype: DType) -> Element:
    """Round a number to its float type, or check that its integer type can represent it."""
    if dtype.is_float:
        with np.errstate(over="ignore"):
            return float(dtype.numpy.type(number))
    if dtype.is_integer:
        limits = np.iinfo(dtype.numpy)
        if not limits.min <= number <= limits.max:
            raise NotRepresentable
    return number


def _divided(a: Element, b: Element) -> Element:
    """Divide; the quotient of integers is rounded towards zero."""
    if isinstance(a, float) or isinstance(b, float):
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.float64(a) / np.float64(b))
    if b == 0:
        raise NotRepresentable
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _cast(number: Element, dtype: DType) -> Element:
    if dtype is DType.BOOL:
        return bool(number)
    if dtype.is_float:
        return _fitting(float(number), dtype)
    if isinstance(number, float) and not math.isfinite(number):
        raise NotRepresentable
    return _fitting(int(number), dtype)


def _extreme(larger: bool) -> Callable[[Element, Element], Element]:
    """Return Max or Min, both of which propagate NaN."""

    def choose(a: Element, b: Element) -> Element:
        if a != a or b != b:
            return math.nan
        return max(a, b) if larger else min(a, b)

    return choose


_ARITHMETIC = frozenset(("Add", "Sub", "Mul", "Neg"))
_NUMBERS: dict[str, Callable[..., Element]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Neg": lambda a: -a,
    "Max": _extreme(True),
    "Min": _extreme(False),
    "Equal": lambda a, b: a == b,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "And": lambda a, b: bool(a and b),
    "Or": lambda a, b: bool(a or b),
    "Not": lambda a: not a,
}
