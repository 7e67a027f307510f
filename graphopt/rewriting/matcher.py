"""Matching of expressions against values: a bounded search, and the reason of the miss that got furthest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from graphopt.ir import DType, Node, Value
from graphopt.ir.facts import Kind, Trait, facts_of

from .expressions import AnyOf, Arithmetic, Capture, Expression, Number, Op, Optional
from .match import State
from .passes import Miss
from .polynomial import MAX_NODES, OPERATORS, Polynomial, PolynomialOf, expression
from .values import close, fits_beside, number, tolerance

MOST_STEPS = 1_000
"""The limit on comparisons per attempt, which patterns with many commutative operators need."""


Reason = str | tuple[Expression | None, Value | None]
"""A text, or what was expected and what was found, which is formatted only if it is reported."""


class Search:
    """One attempt: counts its steps, and keeps the reason of the state that got furthest."""

    def __init__(self, root: Expression, anchors: list[Op], node: Node) -> None:
        self._root = root
        self._anchor = anchors[0] if len(anchors) == 1 else None
        self._node = node
        self._steps = 0
        self._cones: dict[Value, list[Value]] = {}
        self._polynomials: dict[tuple[Value, ...], PolynomialOf | None] = {}
        self.progress = -1
        self._reason: Reason = ""
        self._always = False

    def fail(self, progress: int, reason: Reason, *, always: bool = False) -> None:
        """Record why a state with `progress` matched nodes failed."""
        if (progress, always) > (self.progress, self._always):
            self.progress, self._reason, self._always = progress, reason, always

    def miss(self, near: int) -> Miss:
        """Return the reason to report: one of the pattern's own, or a general one if enough nodes matched."""
        if not self._always and self.progress < near:
            return Miss()
        if isinstance(self._reason, str):
            return Miss(self._reason)
        part, value = self._reason
        return Miss(f"expected {part}, found {_described(value)}")

    def first(self, part: Expression, value: Value) -> list[State]:
        """Return one way in which a pattern matches a value on its own, or none."""
        return list(itertools.islice(self.match(part, value, State()), 1))

    def match(self, part: Expression, value: Value | None, state: State) -> Iterator[State]:
        """Yield every way in which a pattern matches a value, given what was matched before."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            self.fail(MOST_STEPS, "there are too many ways to match it", always=True)
            return
        before = (self.progress, self._reason, self._always)
        self.progress, self._reason, self._always = -1, "", False
        found = False
        for result in self._match(part, value, state):
            found = True
            yield result
        reached = (self.progress, self._reason, self._always)
        if part.expected and not found and not self._always:
            progress = max(self.progress, len(state.nodes))
            reached = (progress, part.expected, part is not self._root)
        self.progress, self._reason, self._always = before
        self.fail(reached[0], reached[1], always=reached[2])

    def _match(self, part: Expression, value: Value | None, state: State) -> Iterator[State]:
        if value is None:
            self.fail(len(state.nodes), (part, None))
            return
        match part:
            case Capture():
                yield from self._capture(part, value, state)
            case Number():
                yield from self._number(part, value, state)
            case Op():
                yield from self._op(part, value, state)
            case AnyOf():
                for option in part.options:
                    yield from self.match(option, value, state)
            case Optional():
                yield from self._optional(part, value, state)
            case Arithmetic():
                yield from self._arithmetic(part, value, state)

    def _differs(self, part: Expression | None, value: Value | None, state: State) -> None:
        self.fail(len(state.nodes), (part, value))

    def _capture(self, part: Capture, value: Value, state: State) -> Iterator[State]:
        known = state.values.get(part.name)
        fits = known is value or (known is None and (part.test is None or part.test(value)))
        if not fits or (part.constant and value.constant is None):
            self._differs(part, value, state)
            return
        yield state._replace(values={**state.values, part.name: value})

    def _number(self, part: Number, value: Value, state: State) -> Iterator[State]:
        found, known = number(value), state.numbers.get(part.name)
        if part.value is not None:
            fits = close(found, part.value, value.dtype)
        else:
            fits = found is not None and known in (None, found)
        if not fits or found is None:
            self._differs(part, value, state)
            return
        yield state._replace(numbers={**state.numbers, part.name: found}) if part.name else state

    def _op(self, part: Op, value: Value, state: State) -> Iterator[State]:
        node = value.producer
        if node is None or node.op != part.op_type or node.output is not value or not _has(node, part.attributes):
            self._differs(part, value, state)
            return
        if part.single and value.sole_user is None:
            self.fail(len(state.nodes) + 1, f"the result of {node.label} is used elsewhere or is an output")
            return
        if (part is self._anchor and node is not self._node) or state.matched.get(part, node) is not node:
            return
        inputs = list(node.inputs)
        if len(inputs) < len(part.inputs):
            inputs += [None] * (len(part.inputs) - len(inputs))
        if any(value is not None for value in inputs[len(part.inputs) :]) and not part.open_ended:
            self._differs(part, value, state)
            return
        named = {**state.named, part.name: node} if part.name else state.named
        state = state.with_nodes(node)._replace(named=named, matched={**state.matched, part: node})
        orders = [inputs[: len(part.inputs)]]
        if len(inputs) == len(part.inputs) == 2 and inputs[0] is not inputs[1] and _is_symmetric(node):
            orders.append(inputs[::-1])
        for order in orders:
            # Patterns that are quick to rule out come first, so that a wrong order of operands fails at once.
            pairs = sorted(zip(part.inputs, order, strict=True), key=lambda pair: isinstance(pair[0], Capture))
            inner, operand = next((pair for pair in pairs if not _may_be(*pair)), (None, None))
            if inner is not None:
                pairs = [(inner, operand)]  # determines the reason
            elif wide := [pair for pair in pairs if _is_too_wide(node, *pair)]:
                self._differs(*wide[0], state)
                continue
            yield from self._all(pairs, state)

    def _all(self, pairs: list[tuple[Expression | None, Value | None]], state: State) -> Iterator[State]:
        if not pairs:
            yield state
            return
        part, value = pairs[0]
        if part is None:
            if value is None:
                yield from self._all(pairs[1:], state)
            return
        for result in self.match(part, value, state):
            yield from self._all(pairs[1:], result)

    def _optional(self, part: Optional, value: Value, state: State) -> Iterator[State]:
        node = value.producer
        if node is not None and node.op in part.links and node.output is value:
            named = {**state.named, part.name: node} if part.name else state.named
            yield from self.match(part.inner, node.input(0), state.with_nodes(node)._replace(named=named))
        yield from self.match(part.inner, value, state)

    def _arithmetic(self, part: Arithmetic, value: Value, state: State) -> Iterator[State]:
        """Choose a value for each atom among the values that `value` is computed from, and compare polynomials."""
        cone = self._cone(value)
        if any(name for _, name in part.terms.values()):
            cone = cone[::-1]  # a factor to be captured includes all factors that there are
        atoms = sorted(part.atoms, key=lambda atom: isinstance(atom, Capture))
        for result, chosen in self._choices(atoms, cone, state, {}):
            # A captured value has the shape of the result; constants must broadcast to it.
            order = sorted(range(len(atoms)), key=lambda i: not isinstance(part.atoms[i], Capture))
            variables = tuple(chosen[part.atoms[i]] for i in order)
            found = self._expression(value, variables)
            self._steps += 1 if found is None else len(found.nodes)
            bound = None
            if found is not None:
                wanted = {tuple(e[i] for i in order): c for e, c in part.terms.items()}
                bound = _coefficients(wanted, found.polynomial, variables[0].dtype, result)
            if found is not None and bound is not None:
                yield bound.with_nodes(*found.nodes)
            else:
                self._differs(part, value, result)

    def _cone(self, value: Value) -> list[Value]:
        if value not in self._cones:
            self._cones[value] = _cone(value)
        return self._cones[value]

    def _expression(self, value: Value, variables: tuple[Value, ...]) -> PolynomialOf | None:
        key = (value, *variables)
        if key not in self._polynomials:
            self._polynomials[key] = expression(value, variables) if variables else None
        return self._polynomials[key]

    def _choices(
        self, atoms: list[Expression], cone: list[Value], state: State, chosen: dict[Expression, Value]
    ) -> Iterator[tuple[State, dict[Expression, Value]]]:
        if not atoms:
            yield state, chosen
            return
        atom = atoms[0]
        known = state.values.get(atom.name) if isinstance(atom, Capture) else None
        candidates = cone if known is None else [known]
        for value in [value for value in candidates if _may_be(atom, value)] or candidates[:1]:
            for result in self.match(atom, value, state):
                yield from self._choices(atoms[1:], cone, result, {**chosen, atom: value})


def _cone(value: Value) -> list[Value]:
    """Return the values that `value` is computed from by arithmetic, nearest first, including itself."""
    found = {value: None}
    queue = [value]
    for current in queue:
        node = current.producer
        if node is None or node.op not in OPERATORS or len(queue) > MAX_NODES:
            continue
        for operand in node.inputs:
            if operand is not None and operand.constant is None and operand not in found:
                found[operand] = None
                queue.append(operand)
    return queue


def _is_symmetric(node: Node) -> bool:
    return bool(facts_of(node.op).traits & (Trait.COMMUTATIVE | Trait.SYMMETRIC))


def _may_be(part: Expression | None, value: Value | None) -> bool:
    """Return whether a pattern may match a value, judging only by its producer."""
    if part is None or value is None:
        return part is None and value is None
    producer = "" if value.producer is None else value.producer.op
    match part:
        case Op():
            return producer == part.op_type
        case Number():
            return value.constant is not None
        case Capture():
            return not part.constant or value.constant is not None
        case AnyOf():
            return any(_may_be(option, value) for option in part.options)
        case Optional():
            return producer in part.links or _may_be(part.inner, value)
    return True


def _is_too_wide(node: Node, part: Expression | None, value: Value | None) -> bool:
    """Return whether the constant for a number gives a broadcast result more axes than the other operands have."""
    if value is None or not isinstance(part, Number) or facts_of(node.op).kind is not Kind.BROADCAST:
        return False
    return not any(fits_beside(value, other) for other in node.inputs if other is not None and other is not value)


def _coefficients(
    wanted: dict[tuple[int, ...], tuple[float, str]], found: Polynomial, dtype: DType | None, state: State
) -> State | None:
    """Return the state with the named numbers for which two polynomials are equal within the float type's precision."""
    numbers = dict(state.numbers)
    for exponents in wanted.keys() | found.keys():
        factor, name = wanted.get(exponents, (0.0, ""))
        have = found.get(exponents, 0.0)
        if name and exponents not in found and any(exponents):
            return None
        if name and name not in numbers:
            numbers[name] = have / factor
        want = factor * numbers.get(name, 0.0) if name else factor
        if abs(have - want) > 2 * tolerance(dtype) * abs(want):
            return None
    return state._replace(numbers=numbers)


def _has(node: Node, attributes: dict[str, Any]) -> bool:
    """Return whether a node has attributes with these values, or that satisfy these predicates."""
    for name, wanted in attributes.items():
        have = node.attr(name)
        if not (wanted(have) if callable(wanted) else have == wanted):
            return False
    return True


def _described(value: Value | None) -> str:
    """Describe a value in a reason for a miss."""
    if value is None:
        return "an omitted input"
    if value.producer is not None and value.constant is None:
        return value.producer.label
    return f"a constant '{value.name}'" if value.constant is not None else f"input '{value.name}'"
