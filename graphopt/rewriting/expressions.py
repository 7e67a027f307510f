"""The elements of patterns: captures, numbers, operators, alternatives, arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.ir import Value


class Expression:
    """A pattern of one value."""

    expected: str = ""

    def expect(self, reason: str) -> Expression:
        """Return the same pattern with its own reason for a miss.

        The reason of a part is reported even if nothing matched before it; that of a whole pattern only for near
        misses.
        """
        same = copy.copy(self)
        same.expected = reason
        return same

    def parts(self) -> Iterator[Expression]:
        """Yield this pattern and all patterns inside it."""
        yield self

    def __add__(self, other: Operand) -> Arithmetic:
        return _sum(_arithmetic(self), _arithmetic(other))

    def __radd__(self, other: Operand) -> Arithmetic:
        return _sum(_arithmetic(other), _arithmetic(self))

    def __sub__(self, other: Operand) -> Arithmetic:
        return _sum(_arithmetic(self), _scaled(_arithmetic(other), -1.0))

    def __rsub__(self, other: Operand) -> Arithmetic:
        return _sum(_arithmetic(other), _scaled(_arithmetic(self), -1.0))

    def __mul__(self, other: Operand) -> Arithmetic:
        return _product(_arithmetic(self), _arithmetic(other))

    def __rmul__(self, other: Operand) -> Arithmetic:
        return _product(_arithmetic(other), _arithmetic(self))

    def __truediv__(self, other: float) -> Arithmetic:
        return _scaled(_arithmetic(self), 1.0 / other)

    def __pow__(self, exponent: int) -> Arithmetic:
        result = own = _arithmetic(self)
        for _ in range(exponent - 1):
            result = _product(result, own)
        return result

    def __neg__(self) -> Arithmetic:
        return _scaled(_arithmetic(self), -1.0)


Operand = Expression | float


@dataclass(eq=False)
class Capture(Expression):
    """Any value, captured by name; the same name always stands for the same value.

    `test` decides whether a value is acceptable; `constant` restricts it to constants.
    """

    name: str
    test: Callable[[Value], bool] | None = None
    constant: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass(eq=False)
class Number(Expression):
    """A constant of one element: `value` within the precision of its float type, or any number, captured by name.

    In arithmetic, a named number is a coefficient: `Number("a") * x`. It captures the product of all constant factors,
    or 1 if there are none.
    """

    name: str = ""
    value: float | None = None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.value:g}"


@dataclass(eq=False)
class Op(Expression):
    """The first output of a node of an operator, which is named as by `Node.op`.

    `inputs` must be all inputs of the node; a final `...` stands for any further ones, None for an omitted one.
    `attributes` must have these values, or values that satisfy these predicates; None stands for an absent attribute.
    """

    op_type: str
    inputs: tuple[Expression | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    open_ended: bool = False
    name: str = ""
    single: bool = False

    def named(self, name: str) -> Op:
        """Return the same pattern; `Match.node(name)` is the node that it matched."""
        same = copy.copy(self)
        same.name = name
        return same

    def once(self) -> Op:
        """Return the same pattern for a result with a single use, which is not an output."""
        same = copy.copy(self)
        same.single = True
        return same

    def parts(self) -> Iterator[Expression]:
        yield self
        for part in self.inputs:
            yield from part.parts() if part is not None else ()

    def __str__(self) -> str:
        shown = ["" if part is None else str(part) for part in self.inputs] + ["..."] * self.open_ended
        return f"{self.op_type}({', '.join(shown)})"


@dataclass(eq=False)
class AnyOf(Expression):
    """The first of several patterns that matches."""

    options: tuple[Expression, ...]

    def parts(self) -> Iterator[Expression]:
        yield self
        for option in self.options:
            yield from option.parts()

    def __str__(self) -> str:
        return " or ".join(map(str, self.options))


@dataclass(eq=False)
class Optional(Expression):
    """`inner`, or a node of one of the operators `links` whose first input is `inner`."""

    links: tuple[str, ...]
    inner: Expression
    name: str = ""

    def parts(self) -> Iterator[Expression]:
        yield self
        yield from self.inner.parts()

    def __str__(self) -> str:
        return str(self.inner)


Coefficient = tuple[float, str]
"""A factor, and the name of the number that it is multiplied by, if any."""


@dataclass(eq=False)
class Arithmetic(Expression):
    """A polynomial in other patterns: coefficients by the exponents of the patterns, in the order of `atoms`."""

    terms: dict[tuple[int, ...], Coefficient]
    atoms: tuple[Expression, ...]

    def parts(self) -> Iterator[Expression]:
        yield self
        for atom in self.atoms:
            yield from atom.parts()

    def __str__(self) -> str:
        texts = []
        for exponents, (factor, name) in self.terms.items():
            factors = [f"{factor:g}"] if factor != 1 or not any(exponents) else []
            factors += [name] if name else []
            powers = zip(self.atoms, exponents, strict=True)
            factors += [f"{atom}" if power == 1 else f"{atom}^{power}" for atom, power in powers if power]
            texts.append("*".join(factors))
        return " + ".join(texts)


def _key(atom: Expression) -> object:
    return atom.name if isinstance(atom, Capture) else atom


def _arithmetic(operand: Operand) -> Arithmetic:
    if isinstance(operand, Arithmetic):
        return operand
    if isinstance(operand, Number):
        value = operand.value
        return Arithmetic({(): (1.0, operand.name) if value is None else (value, "")}, ())
    if isinstance(operand, Expression):
        return Arithmetic({(1,): (1.0, "")}, (operand,))
    return Arithmetic({(): (float(operand), "")}, ())


def _aligned(first: Arithmetic, second: Arithmetic) -> tuple[tuple[Expression, ...], Arithmetic, Arithmetic]:
    """Return all atoms, and both polynomials in terms of them."""
    atoms = list({_key(atom): atom for atom in (*first.atoms, *second.atoms)}.values())
    keys = [_key(atom) for atom in atoms]

    def over_all(one: Arithmetic) -> Arithmetic:
        places = [keys.index(_key(atom)) for atom in one.atoms]
        terms = {}
        for exponents, coefficient in one.terms.items():
            wide = [0] * len(atoms)
            for place, exponent in zip(places, exponents, strict=True):
                wide[place] = exponent
            terms[tuple(wide)] = coefficient
        return Arithmetic(terms, tuple(atoms))

    return tuple(atoms), over_all(first), over_all(second)


def _sum(first: Arithmetic, second: Arithmetic) -> Arithmetic:
    atoms, left, right = _aligned(first, second)
    terms = dict(left.terms)
    for exponents, (factor, name) in right.terms.items():
        known, other = terms.get(exponents, (0.0, name))
        if other != name:
            raise ValueError("a sum of different named numbers cannot be told apart: name their sum")
        terms[exponents] = known + factor, name
    return Arithmetic(terms, atoms)


def _product(first: Arithmetic, second: Arithmetic) -> Arithmetic:
    atoms, left, right = _aligned(first, second)
    result = Arithmetic({}, atoms)
    for some, (a, name) in left.terms.items():
        for others, (b, other) in right.terms.items():
            if name and other:
                raise ValueError("a product of named numbers cannot be told apart: name the product")
            term = {tuple(i + j for i, j in zip(some, others, strict=True)): (a * b, name or other)}
            result = _sum(result, Arithmetic(term, atoms))
    return result


def _scaled(arithmetic: Arithmetic, factor: float) -> Arithmetic:
    return Arithmetic({e: (a * factor, name) for e, (a, name) in arithmetic.terms.items()}, arithmetic.atoms)


def _input(given: Any) -> Expression | None:
    if given is None or isinstance(given, Expression):
        return given
    return Number(value=float(given))


class _Operators:
    """`op.Relu(x)`, or `op["com.microsoft::Gelu"](x)` for other domains."""

    def __getattr__(self, op_type: str) -> Callable[..., Op]:
        return self[op_type]

    def __getitem__(self, op_type: str) -> Callable[..., Op]:
        def make(*inputs: Any, **attributes: Any) -> Op:
            open_ended = bool(inputs) and inputs[-1] is ...
            listed = inputs[:-1] if open_ended else inputs
            return Op(op_type, tuple(_input(part) for part in listed), attributes, open_ended)

        return make


op = _Operators()


def any_of(*options: Expression) -> AnyOf:
    """Return a pattern for the first of several patterns that matches."""
    return AnyOf(options)


def optional(links: str | Sequence[str], inner: Expression, name: str = "") -> Optional:
    """Return a pattern for `inner`, or for a node of one of the operators `links` on it.

    `Match.node(name)` is that node, if there is one.
    """
    return Optional((links,) if isinstance(links, str) else tuple(links), inner, name)


def constant(name: str, test: Callable[[Value], bool] | None = None) -> Capture:
    """Return a pattern for a constant, captured by name."""
    return Capture(name, test, constant=True)
