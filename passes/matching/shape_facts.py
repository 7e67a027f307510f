"""What is known of integers that describe shapes: sizes as numbers, or as symbols that stand for one size each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graphopt.ir import DType, Node, Value
from graphopt.passes.matching.facts import constant_ints
from graphopt.rewriting.passes import PassContext

_MOST = 1024  # elements; nobody's shape is longer
_INTEGERS = (DType.INT64, DType.INT32, DType.BOOL)


@dataclass(frozen=True)
class Dimension:
    """A dimension without a name: axis `axis` of `value`. Never negative, like one with a name (a str)."""

    value: Value
    axis: int


@dataclass(frozen=True)
class Element:
    """An integer that nothing is known of: element `index` of `value`."""

    value: Value
    index: int


Item = int | str | Dimension | Element


@dataclass(frozen=True)
class Items:
    """The elements of an integer tensor of rank 0 or 1."""

    items: tuple[Item, ...]
    scalar: bool = False

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """The elements if all of them are numbers."""
        numbers = tuple(item for item in self.items if isinstance(item, int))
        return numbers if len(numbers) == len(self.items) else None


def dimensions(value: Value) -> tuple[Item, ...] | None:
    """The shape of a value, with an own symbol for each dimension that has no name."""
    if value.shape is None:
        return None
    return tuple(Dimension(value, axis) if dim is None else dim for axis, dim in enumerate(value.shape))


class ShapeFacts:
    """What is known of the integers in a graph; to be asked of values in the order of the graph."""

    def __init__(self, context: PassContext) -> None:
        self._context = context
        self._known: dict[Value, Items | None] = {}

    def of(self, value: Value | None) -> Items | None:
        """The elements of `value`, or None if they are not integers, or too many."""
        if value is None:
            return None
        if value not in self._known:
            self._known[value] = self._constant(value) or self._unknown(value)
        return self._known[value]

    def learn(self, node: Node) -> Items | None:
        """Find out what `node` computes from what is known of its inputs."""
        rule = None if node.domain else _RULES.get(node.op_type)
        if rule is None or len(node.outputs) != 1 or node.output.dtype not in _INTEGERS:
            return None
        found = rule(node, self)
        if found is not None:
            self._known[node.output] = found
        return found

    def integers(self, value: Value | None) -> tuple[int, ...] | None:
        """The elements of `value` if all of them are known numbers."""
        found = self.of(value)
        return None if found is None else found.numbers

    def constant(self, value: Value | None) -> tuple[int, ...] | None:
        return constant_ints(value, self._context)

    def _constant(self, value: Value) -> Items | None:
        array = self._context.array(value, _MOST)
        if array is None or array.ndim > 1 or array.dtype.kind not in "biu":
            return None
        return Items(tuple(int(item) for item in array.reshape(-1)), array.ndim == 0)

    def _unknown(self, value: Value) -> Items | None:
        if value.dtype not in _INTEGERS[:2] or value.shape is None or len(value.shape) > 1:
            return None
        length = value.shape[0] if value.shape else 1
        if not isinstance(length, int) or length > _MOST:
            return None
        return Items(tuple(Element(value, index) for index in range(length)), not value.shape)


Rule = Callable[[Node, ShapeFacts], Items | None]


def _shape(node: Node, facts: ShapeFacts) -> Items | None:
    value = node.input(0)
    dims = None if value is None else dimensions(value)
    return None if dims is None else Items(dims[node.attr("start", 0) : node.attr("end")])


def _size(node: Node, facts: ShapeFacts) -> Items | None:
    value = node.input(0)
    dims = None if value is None else dimensions(value)
    numbers = None if dims is None else Items(dims).numbers
    return None if numbers is None else Items((math.prod(numbers),), scalar=True)


def _gather(node: Node, facts: ShapeFacts) -> Items | None:
    data, indices = facts.of(node.input(0)), facts.of(node.input(1))
    numbers = None if indices is None else indices.numbers
    if data is None or data.scalar or indices is None or numbers is None:
        return None
    length = len(data.items)
    if not all(-length <= index < length for index in numbers):
        return None
    return Items(tuple(data.items[index] for index in numbers), indices.scalar)


def _slice(node: Node, facts: ShapeFacts) -> Items | None:
    data = facts.of(node.input(0))
    start, end = facts.integers(node.input(1)), facts.integers(node.input(2))
    step = (1,) if node.input(4) is None else facts.integers(node.input(4))
    if data is None or data.scalar or start is None or end is None or step is None:
        return None
    if not (len(start) == len(end) == len(step) == 1) or step[0] <= 0:
        return None
    return Items(data.items[start[0] : end[0] : step[0]])


def _concat(node: Node, facts: ShapeFacts) -> Items | None:
    parts = [facts.of(value) for value in node.inputs]
    known = [part for part in parts if part is not None and not part.scalar]
    if len(known) != len(parts):
        return None
    return Items(tuple(item for part in known for item in part.items))


def _same_items(node: Node, facts: ShapeFacts) -> Items | None:
    """Identity, and casts between integers wide enough for a size."""
    data = facts.of(node.input(0))
    if data is None or node.output.dtype is DType.BOOL:
        return None
    info = np.iinfo(node.output.dtype.numpy) if node.output.dtype is not None else None
    fits = info is not None and all(not isinstance(i, int) or info.min <= i <= info.max for i in data.items)
    # Sizes fit int32 or the tensor does not fit memory; an arbitrary integer may not.
    known = node.op_type == "Identity" or not any(isinstance(item, Element) for item in data.items)
    return data if fits and known else None


def _reshaped(node: Node, facts: ShapeFacts) -> Items | None:
    """Squeeze, Unsqueeze and Reshape between a scalar and a list, or from list to list."""
    data, rank = facts.of(node.input(0)), node.output.rank
    if data is None or rank is None or rank > 1:
        return None
    return Items(data.items, rank == 0)


def _constant_of_shape(node: Node, facts: ShapeFacts) -> Items | None:
    shape = facts.integers(node.input(0))
    value = node.attr("value")
    if shape is None or len(shape) > 1 or value is None or math.prod(shape) > _MOST:
        return None
    return Items((int(value.item()),) * math.prod(shape), not shape)


def _reduce_prod(node: Node, facts: ShapeFacts) -> Items | None:
    numbers, rank = facts.integers(node.input(0)), node.output.rank
    data = facts.of(node.input(0))
    if numbers is None or data is None or data.scalar or rank is None or node.attr("noop_with_empty_axes", 0):
        return None
    return Items((math.prod(numbers),), rank == 0)


def _elementwise(combine: Callable[[Item, Item, Callable[[], Item | None]], Item | None]) -> Rule:
    """A rule for a binary operator; `combine` is given two elements and a maker of a new symbol for their result."""

    def rule(node: Node, facts: ShapeFacts) -> Items | None:
        left, right = facts.of(node.input(0)), facts.of(node.input(1))
        if left is None or right is None:
            return None
        length = max(len(left.items), len(right.items))
        if not {len(left.items), len(right.items)} <= {1, length}:
            return None
        results: list[Item] = []
        for index in range(length):
            a, b = (side.items[index if len(side.items) > 1 else 0] for side in (left, right))

            def symbol(index: int = index) -> Item | None:
                return None if node.output.dtype is DType.BOOL else Element(node.output, index)

            result = combine(a, b, symbol)
            if result is None:
                return None
            results.append(result)
        return Items(tuple(results), left.scalar and right.scalar)

    return rule


def _in_range(number: int) -> int | None:
    return number if abs(number) < 2**31 else None  # int32 would wrap


def _add(a: Item, b: Item, symbol: Callable[[], Item | None]) -> Item | None:
    if isinstance(a, int) and isinstance(b, int):
        return _in_range(a + b)
    return a if b == 0 else b if a == 0 else symbol()


def _sub(a: Item, b: Item, symbol: Callable[[], Item | None]) -> Item | None:
    if isinstance(a, int) and isinstance(b, int):
        return _in_range(a - b)
    return a if b == 0 else 0 if a == b else symbol()


def _mul(a: Item, b: Item, symbol: Callable[[], Item | None]) -> Item | None:
    if isinstance(a, int) and isinstance(b, int):
        return _in_range(a * b)
    if a == 0 or b == 0:
        return 0
    return a if b == 1 else b if a == 1 else symbol()


def _div(a: Item, b: Item, symbol: Callable[[], Item | None]) -> Item | None:
    if isinstance(a, int) and isinstance(b, int):
        return a // b if a >= 0 and b > 0 else None
    return a if b == 1 else symbol()


def _equal(a: Item, b: Item, symbol: Callable[[], Item | None]) -> Item | None:
    if a == b:
        return 1
    if isinstance(a, int) and isinstance(b, int):
        return 0
    number, other = (a, b) if isinstance(a, int) else (b, a)
    negative = isinstance(number, int) and number < 0
    return 0 if negative and isinstance(other, str | Dimension) else None


def _where(node: Node, facts: ShapeFacts) -> Items | None:
    conditions = facts.integers(node.input(0))
    yes, no = facts.of(node.input(1)), facts.of(node.input(2))
    if conditions is None or yes is None or no is None or node.output.rank is None:
        return None
    lengths = {len(conditions), len(yes.items), len(no.items)}
    length = max(lengths)
    if not lengths <= {1, length}:
        return None

    def pick(items: tuple[Item, ...], index: int) -> Item:
        return items[index if len(items) > 1 else 0]

    chosen = (pick(yes.items if pick(conditions, i) else no.items, i) for i in range(length))
    return Items(tuple(chosen), node.output.rank == 0)


_RULES: dict[str, Rule] = {
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Identity": _same_items,
    "Cast": _same_items,
    "Squeeze": _reshaped,
    "Unsqueeze": _reshaped,
    "Reshape": _reshaped,
    "ConstantOfShape": _constant_of_shape,
    "ReduceProd": _reduce_prod,
    "Add": _elementwise(_add),
    "Sub": _elementwise(_sub),
    "Mul": _elementwise(_mul),
    "Div": _elementwise(_div),
    "Equal": _elementwise(_equal),
    "Where": _where,
}
