"""Polynomials of the arithmetic around an activation, independent of the order in which an exporter wrote it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.ir import DType, Node, Value

from .values import fits_beside, number, tolerance

Polynomial = dict[tuple[int, ...], float]
"""The coefficients by the exponents of the variables."""

MAX_DEGREE = 4
MAX_NODES = 16


@dataclass(frozen=True)
class PolynomialOf:
    """A value as a polynomial, and the nodes that compute it from the variables."""

    polynomial: Polynomial
    nodes: tuple[Node, ...]


def expression(value: Value, variables: tuple[Value, ...]) -> PolynomialOf | None:
    """Return `value` as a polynomial in `variables`, or None if it is not one or is too many nodes away from them."""
    count = len(variables)
    known: dict[Value, Polynomial] = {
        variable: {tuple(int(i == index) for i in range(count)): 1.0} for index, variable in enumerate(variables)
    }
    nodes: list[Node] = []
    stack = [value]
    while stack:
        current = stack[-1]
        if current in known:
            stack.pop()
            continue
        if current.constant is not None:
            constant = number(current) if fits_beside(current, variables[0]) else None
            if constant is None:
                return None
            known[current] = {(0,) * count: constant}
            continue
        node = current.producer
        if node is None or node.op not in OPERATORS or len(nodes) >= MAX_NODES or len(stack) > MAX_NODES:
            return None
        waiting = [v for v in node.inputs if v is not None and v not in known]
        if waiting:
            stack.extend(waiting)
            continue
        result = OPERATORS[node.op](*(known[v] for v in node.inputs if v is not None))
        if result is None:
            return None
        known[current] = result
        nodes.append(node)
    return PolynomialOf(known[value], tuple(nodes))


def equals(polynomial: Polynomial, target: Polynomial, dtype: DType | None) -> bool:
    """Return whether two polynomials are equal within the precision of constants of this float type."""
    for exponents in polynomial.keys() | target.keys():
        have, want = polynomial.get(exponents, 0.0), target.get(exponents, 0.0)
        if abs(have - want) > 2 * tolerance(dtype) * abs(want):
            return False
    return True


def follow(
    start: Value, variables: tuple[Value, ...], target: Polynomial, dtype: DType | None, steps: int = 5
) -> tuple[Node, tuple[Node, ...]] | None:
    """Return the node after `start` whose result is the polynomial `target`, and all nodes between, or None.

    `start` is one of `variables`. Each step on the way must be the only user of the previous one.
    """
    current = start
    for _ in range(steps):
        node = current.sole_user
        if node is None or node.op not in OPERATORS:
            return None
        current = node.output
        found = expression(current, variables)
        if found is not None and equals(found.polynomial, target, dtype):
            return node, found.nodes
    return None


def scaled(value: Value) -> list[tuple[Value, float, tuple[Node, ...]]]:
    """Return `value` as factor * source for each source through a chain of products with constants, itself first."""
    found: list[tuple[Value, float, tuple[Node, ...]]] = [(value, 1.0, ())]
    for _ in range(4):
        current, factor, nodes = found[-1]
        node = current.producer
        if node is None or node.op not in ("Mul", "Div", "Neg"):
            break
        source, step = _one_step(node)
        if source is None or step is None:
            break
        found.append((source, factor * step, (*nodes, node)))
    return found


def _one_step(node: Node) -> tuple[Value | None, float | None]:
    """Return what a Mul, Div or Neg scales, and the factor; None for either if it is something else."""
    first = node.inputs[0]
    if node.op == "Neg":
        return first, -1.0
    second = node.inputs[1]
    assert first is not None
    assert second is not None
    if first.constant is None and fits_beside(second, first):
        constant = number(second)
        if node.op == "Div" and constant is not None:
            return first, None if constant == 0 else 1.0 / constant
        return first, constant
    if node.op == "Mul" and second.constant is None and fits_beside(first, second):
        return second, number(first)
    return None, None


def _add(first: Polynomial, second: Polynomial, sign: float = 1.0) -> Polynomial:
    return {e: first.get(e, 0.0) + sign * second.get(e, 0.0) for e in first.keys() | second.keys()}


def _sub(first: Polynomial, second: Polynomial) -> Polynomial:
    return _add(first, second, -1.0)


def _mul(first: Polynomial, second: Polynomial) -> Polynomial | None:
    result: Polynomial = {}
    for left, a in first.items():
        for right, b in second.items():
            exponents = tuple(i + j for i, j in zip(left, right))
            if sum(exponents) > MAX_DEGREE:
                return None
            result[exponents] = result.get(exponents, 0.0) + a * b
    return result


def _constant(polynomial: Polynomial) -> float | None:
    return next(iter(polynomial.values())) if all(sum(e) == 0 for e in polynomial) else None


def _div(first: Polynomial, second: Polynomial) -> Polynomial | None:
    divisor = _constant(second)
    return {e: a / divisor for e, a in first.items()} if divisor else None


def _pow(base: Polynomial, exponent: Polynomial) -> Polynomial | None:
    power = _constant(exponent)
    if power is None or power != int(power) or not 1 <= power <= MAX_DEGREE:
        return None
    result: Polynomial | None = base
    for _ in range(int(power) - 1):
        result = None if result is None else _mul(result, base)
    return result


OPERATORS: dict[str, Callable[..., Polynomial | None]] = {
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Pow": _pow,
    "Neg": lambda value: {e: -a for e, a in value.items()},
    "Identity": lambda value: value,
}
