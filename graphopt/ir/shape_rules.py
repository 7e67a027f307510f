"""The rules of shape arithmetic: what each operator does to the elements of small tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .algebra import Algebra, Element
from .node import Node
from .types import DType

LARGEST = 1024
"""The number of elements up to which tensors are evaluated: no shape is longer."""

Elements = np.ndarray
"""An object array of elements."""


@dataclass(frozen=True)
class Known:
    """A tensor whose elements are known numbers or symbols."""

    elements: Elements
    dtype: DType


def full(element: Element, shape: tuple[int, ...] = ()) -> Elements:
    """An object array of `shape` filled with one element."""
    array = np.empty(shape, object)
    array[...] = element
    return array


def listed(elements: Sequence[Element]) -> Elements:
    """An object array of rank 1."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


@dataclass(frozen=True)
class Call:
    """One node with its inputs, ready for evaluation."""

    node: Node
    inputs: Sequence[Known | None]
    algebra: Algebra

    @property
    def data(self) -> Elements:
        """The first input."""
        return self.elements(0)

    def elements(self, index: int) -> Elements:
        known = self.inputs[index]
        if known is None:
            raise ValueError(f"input {index} is missing")
        return known.elements

    def attr(self, name: str, default: Any = None) -> Any:
        return self.node.attr(name, default)

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    def axis(self, rank: int, default: int = 0) -> int:
        """The axis attribute, counted from the front. Raises IndexError if it is out of range."""
        return _axis(self.attr("axis", default), rank)

    def numbers(self, index: int, name: str = "") -> list[int] | None:
        """Return the integers of an input, or of the attribute that preceded it in old opsets; None for symbols."""
        if name and self.attr(name) is not None:
            return list(self.attr(name))
        flat = list(self.elements(index).ravel())
        return [int(item) for item in flat] if all(isinstance(item, int) for item in flat) else None

    def each(self, op: str, *arrays: Elements, dtype: DType | None = None) -> Elements:
        """Apply an operator to each element of arrays that are broadcast against each other."""
        known = self.inputs[0]
        assert known is not None
        function = functools.partial(self.algebra.apply, op, dtype or known.dtype)
        with np.errstate(all="ignore"):
            result = np.frompyfunc(function, len(arrays), 1)(*arrays)
        return result if isinstance(result, np.ndarray) else full(result)


Rule = Callable[[Call], "Elements | Sequence[Elements] | None"]


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < max(rank, 1):
        raise IndexError(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank if rank else 0


def _elementwise(call: Call) -> Elements:
    arrays = [call.elements(index) for index in range(len(call.inputs))]
    if len(arrays) < 2:
        return call.each(call.node.op_type, *arrays) if call.node.op_type not in ("Min", "Max") else arrays[0]
    return functools.reduce(lambda a, b: call.each(call.node.op_type, a, b), arrays)


def _mod(call: Call) -> Elements | None:
    known = call.inputs[0]
    if call.attr("fmod", 0) or known is None or known.dtype.is_float:
        return None
    return _elementwise(call)


def _cast(call: Call) -> Elements | None:
    to = DType(call.attr("to"))
    whole = to.is_integer or to in (DType.BOOL, DType.FLOAT)
    return call.each("Cast", call.data, dtype=to) if whole else None


def _where(call: Call) -> Elements:
    chosen = call.inputs[1]
    assert chosen is not None
    return call.each("Where", *(call.elements(index) for index in range(3)), dtype=chosen.dtype)


def _concat(call: Call) -> Elements:
    arrays = [call.elements(index) for index in range(len(call.inputs))]
    return np.concatenate(arrays, axis=call.axis(arrays[0].ndim))


def _gather(call: Call) -> Elements | None:
    data, indices = call.data, call.numbers(1)
    if indices is None or not data.ndim:
        return None
    axis = call.axis(data.ndim)
    extent = data.shape[axis]
    if any(not -extent <= index < extent for index in indices):
        raise IndexError(f"an index is out of range for an axis of {extent} elements")
    result = np.take(data, np.array(indices, np.int64).reshape(call.elements(1).shape), axis=axis)
    return result if isinstance(result, np.ndarray) else full(result)


def _squeeze(call: Call) -> Elements | None:
    if not call.has(1) and call.attr("axes") is None:
        return np.squeeze(call.data)
    axes = call.numbers(1, "axes")
    return _by_rank(call) if axes is None else np.squeeze(call.data, tuple(axes))


def _unsqueeze(call: Call) -> Elements | None:
    axes = call.numbers(1, "axes")
    return _by_rank(call) if axes is None else np.expand_dims(call.data, tuple(axes))


def _reshape(call: Call) -> Elements | None:
    data, target = call.data, call.numbers(1, "shape")
    if target is None:
        return _by_rank(call)
    if 0 in target and call.attr("allowzero", 0):
        return data.reshape(target)
    return data.reshape([data.shape[axis] if size == 0 else size for axis, size in enumerate(target)])


def _by_rank(call: Call) -> Elements | None:
    """Return the elements in order if the rank of the result alone determines their arrangement."""
    rank = call.node.output.rank
    return call.data.reshape((-1,) if rank else ()) if rank in (0, 1) else None


def _expand(call: Call) -> Elements | None:
    target = call.numbers(1)
    if target is None:
        return None
    return np.broadcast_to(call.data, np.broadcast_shapes(call.data.shape, tuple(target)))


def _tile(call: Call) -> Elements | None:
    repeats = call.numbers(1)
    return None if repeats is None else np.tile(call.data, repeats)


def _flatten(call: Call) -> Elements:
    shape = call.data.shape
    axis = call.attr("axis", 1)
    # The axis may equal the rank, but counted from the end, -1 is the last axis and not the position after it.
    axis = call.axis(len(shape)) if axis < 0 else axis
    return call.data.reshape(math.prod(shape[:axis]), math.prod(shape[axis:]))


def _slice(call: Call) -> Elements | None:
    starts, ends = call.numbers(1, "starts"), call.numbers(2, "ends")
    by_position = not call.has(3) and call.attr("axes") is None
    axes = list(range(len(starts or ()))) if by_position else call.numbers(3, "axes")
    steps = call.numbers(4) if call.has(4) else [1] * len(starts or ())
    if starts is None or ends is None or axes is None or steps is None:
        return None
    place = [slice(None)] * call.data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = _axis(axis, call.data.ndim)
        size = call.data.shape[axis]
        if step > 0:
            place[axis] = slice(start, end, step)
        else:  # unlike in Python, a start before the data is its first element
            place[axis] = slice(max(start, -size), None if end < -size else end, step)
    return call.data[tuple(place)]


def _split(call: Call) -> Sequence[Elements] | None:
    data = call.data
    axis = call.axis(data.ndim)
    extent, count = data.shape[axis], len(call.node.outputs)
    if call.has(1) or call.attr("split") is not None:
        sizes = call.numbers(1, "split")
        if sizes is None:
            return None
    else:
        part = -(-extent // count)
        sizes = [min(part, extent - i * part) for i in range(count)]
    return np.split(data, np.cumsum(sizes)[:-1], axis=axis)


_REDUCED_BY = {"ReduceProd": "Mul", "ReduceSum": "Add", "ReduceMin": "Min", "ReduceMax": "Max"}
_OF_NOTHING = {"ReduceProd": 1, "ReduceSum": 0}


def _reduce(call: Call) -> Elements | None:
    data, known, op = call.data, call.inputs[0], call.node.op_type
    axes = call.numbers(1, "axes") if call.has(1) or call.attr("axes") is not None else []
    if data.ndim != 1 or known is None or axes is None or any(axis not in (0, -1) for axis in axes):
        return None
    if not axes and call.attr("noop_with_empty_axes", 0):
        return data
    if not data.size and op not in _OF_NOTHING:
        return None
    items = list(data) or [_OF_NOTHING[op]]
    result = functools.reduce(lambda a, b: call.algebra.apply(_REDUCED_BY[op], known.dtype, a, b), items)
    return full(result, (1,) if call.attr("keepdims", 1) else ())


def _range(call: Call) -> Elements | None:
    numbers = [item for index in range(3) for item in call.elements(index).ravel()]
    if not all(isinstance(number, int) for number in numbers) or numbers[2] == 0:
        return None
    values = range(*numbers)
    return None if len(values) > LARGEST else listed(values)


def _constant_of_shape(call: Call) -> Elements | None:
    sizes, fill = call.numbers(0), call.attr("value")
    if sizes is None or fill is None or not (fill.dtype.is_integer or fill.dtype is DType.BOOL):
        return None
    return None if int(np.prod(sizes)) > LARGEST else full(fill.numpy().ravel()[0].item(), tuple(sizes))


CONDITIONS = frozenset(("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not"))
RULES: dict[str, Rule] = {
    **dict.fromkeys(CONDITIONS, _elementwise),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Neg", "Min", "Max", "Floor", "Ceil"), _elementwise),
    **dict.fromkeys(_REDUCED_BY, _reduce),
    "Identity": lambda call: call.data,
    "Mod": _mod,
    "Cast": _cast,
    "Where": _where,
    "Concat": _concat,
    "Gather": _gather,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Expand": _expand,
    "Tile": _tile,
    "Transpose": lambda call: np.transpose(call.data, call.attr("perm")),
    "Flatten": _flatten,
    "Slice": _slice,
    "Split": _split,
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
}
