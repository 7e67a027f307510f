"""Facts about integers that describe shapes: sizes as numbers, or as symbols that stand for one size each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir import DType, Node, Value
from graphopt.ir.algebra import Algebra, Element, NotRepresentable, is_number
from graphopt.ir.shape_arithmetic import LARGEST, Known, evaluate, listed, shape_of, size_of
from graphopt.rewriting.passes import PassContext

_INTEGERS = (DType.INT64, DType.INT32, DType.BOOL)


@dataclass(frozen=True)
class Dimension:
    """A dimension without a name: axis `axis` of `value`. Never negative, like one with a name (a str)."""

    value: Value
    axis: int


@dataclass(frozen=True)
class Unknown:
    """An unknown integer: element `index` of `value`, in row-major order."""

    value: Value
    index: int


Item = int | str | Dimension | Unknown


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
    """Return the shape of a value, with a separate symbol for each dimension without a name."""
    if value.shape is None:
        return None
    return tuple(Dimension(value, axis) if dim is None else dim for axis, dim in enumerate(value.shape))


class ShapeFacts:
    """The known integers of a graph; to be queried in the order of the graph."""

    def __init__(self, context: PassContext) -> None:
        self._context = context
        self._known: dict[Value, Known | None] = {}

    def of(self, value: Value | None) -> Items | None:
        """Return the elements of `value`, or None if they are not integers, too many, or of rank 2 or more."""
        known = self._of(value)
        if known is None or known.elements.ndim > 1:
            return None
        return Items(tuple(known.elements.ravel()), known.elements.ndim == 0)

    def learn(self, node: Node) -> Items | None:
        """Derive what `node` computes from what is known of its inputs, and return what `of` returns for it."""
        if any(value.dtype not in _INTEGERS for value in node.outputs):
            return None
        try:
            found = self._evaluated(node)
        except (ValueError, IndexError, NotRepresentable):
            return None  # an invalid node: running it will report the error
        if found is None:
            return None
        for value, known in zip(node.outputs, found):
            self._known[value] = _named(value, known)
        return self.of(node.output) if len(node.outputs) == 1 else None

    def integers(self, value: Value | None) -> tuple[int, ...] | None:
        """The elements of `value` if all of them are known numbers."""
        found = self.of(value)
        return None if found is None else found.numbers

    def _of(self, value: Value | None) -> Known | None:
        if value is None:
            return None
        if value not in self._known:
            self._known[value] = self._constant(value) or self._unknown(value)
        return self._known[value]

    def _evaluated(self, node: Node) -> list[Known] | None:
        if node.op in ("Shape", "Size"):
            data = node.input(0)
            sizes = None if data is None else dimensions(data)
            if sizes is None:
                return None
            return [shape_of(node, sizes) if node.op == "Shape" else size_of(sizes, _SYMBOLS)]
        inputs = [self._of(value) for value in node.inputs]
        if any(known is None and value is not None for known, value in zip(inputs, node.inputs)):
            return None
        return evaluate(node, inputs, _SYMBOLS)

    def _constant(self, value: Value) -> Known | None:
        array = self._context.array(value, LARGEST)
        if array is None or array.dtype.kind not in "biu":
            return None
        elements = np.empty(array.shape, object)
        elements[...] = array.astype(object)
        return Known(elements, DType.of(array))

    def _unknown(self, value: Value) -> Known | None:
        if value.dtype not in _INTEGERS[:2] or value.shape is None or len(value.shape) > 1:
            return None
        length = value.shape[0] if value.shape else 1
        if not isinstance(length, int) or length > LARGEST:
            return None
        assert value.dtype is not None
        items = listed([Unknown(value, index) for index in range(length)])
        return Known(items if value.shape else items.reshape(()), value.dtype)


def _named(value: Value, known: Known) -> Known:
    """Replace unknown elements by symbols of `value` itself."""
    if not any(item is _NOTHING for item in known.elements.ravel()):
        return known
    items = [Unknown(value, i) if item is _NOTHING else item for i, item in enumerate(known.elements.ravel())]
    return Known(listed(items).reshape(known.elements.shape), known.dtype)


_NOTHING = object()
"""The result of an operator on symbols that is not a known symbol."""


class _Symbols(Algebra):
    """Symbols that can only be compared: a sum or product of them is a new one."""

    def symbolic(self, op: str, dtype: DType, *operands: Element) -> Element:
        """Return a symbol or a number that equals the result for all values of the symbols; else `_NOTHING`."""
        if any(operand is _NOTHING for operand in operands) or dtype.is_float:
            return _NOTHING
        match op, operands:
            case ("Add", (a, 0)) | ("Add", (0, a)) | ("Sub", (a, 0)) | ("Mul", (a, 1)) | ("Mul", (1, a)):
                return a
            case ("Mul", (_, 0)) | ("Mul", (0, _)):
                return 0
            case ("Div", (a, 1)):
                return a
            case ("Sub", (a, b)) if a == b:
                return 0
            case ("Min" | "Max", (a, b)) if a == b:
                return a
            case ("Where", (_, a, b)) if a == b:
                return a
            case ("Equal", (a, b)):
                return _equal(a, b)
            case ("Less", (a, int(b))) | ("Greater", (int(b), a)) if _is_size(a) and b <= 0:
                return False
            # Sizes fit into int32, or the tensor would not fit into memory; an arbitrary integer may not.
            case ("Cast", (a,)) if _is_size(a) and dtype in (DType.INT32, DType.INT64):
                return a
        return _NOTHING


_SYMBOLS = _Symbols()


def _is_size(item: Item) -> bool:
    """Return whether a symbol stands for a size, which is never negative."""
    return isinstance(item, str | Dimension)


def _equal(a: Item, b: Item) -> Element:
    if a == b:
        return True
    number, other = (a, b) if is_number(a) else (b, a)
    return False if isinstance(number, int) and number < 0 and _is_size(other) else _NOTHING
