"""The meaning of a model's inputs, found by following them forward to the operators that use them.

Random numbers do not exercise a model that looks up words in a table: an index must be below the number of rows, a mask
must be zeros and ones, a divisor must not be zero. `meaning_of` returns the most specific meaning that the graph shows.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from graphopt.ir import DType, Shape, Use, Value
from graphopt.ir.facts import Role, facts_of


class Kind(enum.IntEnum):
    """The kinds of meaning of an input; if several operators read it, the smallest number wins."""

    INDEX = 0
    SHAPE = 1
    CHOICE = 2
    MASK = 3
    LENGTH = 4
    NONZERO = 5
    POSITIVE = 6
    UNIT = 7
    ANY = 8


@dataclass(frozen=True)
class Meaning:
    """The meaning of an input.

    INDEX: 0 <= x < `bound`. SHAPE: an argument of `use` such as a shape, axes or sizes. CHOICE: one of `values`. MASK:
    zeros and ones. LENGTH: 1 <= x <= `bound`. NONZERO, POSITIVE: as named. UNIT: within (-1, 1). ANY: nothing is known.
    """

    kind: Kind
    bound: int = 0
    values: tuple[float, ...] = ()
    use: Use | None = None


def meaning_of(value: Value) -> Meaning:
    """Return the most specific meaning that the uses of a graph input show; if there is none, judge by its name."""
    found = [meaning for use in _real_uses(value, _keeps_elements) if (meaning := _read(use)) is not None]
    found = [_fit(meaning, value) for meaning in found]
    if not found and value.dtype is not None and value.dtype.is_integer:
        # Exporters wrap negative indices with arithmetic (`where(x < 0, x + rows, x)`) before the lookup.
        read = (_read(use) for use in _real_uses(value, _wraps))
        found = [meaning for meaning in read if meaning is not None and meaning.kind is Kind.INDEX]
    if not found:
        return _by_name(value)
    kind = min(meaning.kind for meaning in found)
    same = [meaning for meaning in found if meaning.kind == kind]
    if kind in (Kind.INDEX, Kind.LENGTH):
        return Meaning(kind, bound=min(meaning.bound for meaning in same))
    if kind is Kind.CHOICE:
        return Meaning(kind, values=tuple(dict.fromkeys(v for meaning in same for v in meaning.values)))
    return same[0]


def decides_sizes(value: Value) -> bool:
    """Return whether a size, a trip count or a position is computed from a graph input.

    Such an input cannot contain extreme values, which would request more memory than there is.
    """
    seen, waiting = {value}, [value]
    while waiting:
        for use in waiting.pop().uses:
            if use.node.op in ("Shape", "Size"):
                continue
            meaning = _read(use)
            decides = meaning is not None and meaning.kind in (Kind.INDEX, Kind.SHAPE, Kind.LENGTH)
            if decides or use.node.subgraphs:
                return True
            fresh = [output for output in use.node.outputs if output not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
    return False


# Operators with which exporters turn an index from the end into one from the front.
_WRAPPING = ("Add", "Mul", "Where", "Max", "Min", "Clip")


def _keeps_elements(use: Use) -> bool:
    """Return whether the elements of an input are those of the result, in any arrangement."""
    facts = facts_of(use.node.op)
    return facts.keeps_values and facts.is_data(use.index)


def _wraps(use: Use) -> bool:
    """Return whether an index may still be an index in the result."""
    facts = facts_of(use.node.op)
    return _keeps_elements(use) or (use.node.op in _WRAPPING and use.index not in facts.roles)


def _real_uses(value: Value, passing: Callable[[Use], bool]) -> Iterator[Use]:
    """Yield the uses of a value, and of the results of `passing` operators, by operators that interpret it."""
    seen = {value}
    waiting = [value]
    while waiting:
        for use in waiting.pop().uses:
            if passing(use):
                fresh = [output for output in use.node.outputs if output not in seen]
                seen.update(fresh)
                waiting.extend(fresh)
            else:
                yield use


def _shape(value: Value | None) -> Shape | None:
    if value is None:
        return None
    return value.tensor.shape if value.tensor is not None else value.shape


def _dim(value: Value | None, axis: int) -> int | None:
    """Return the size along an axis of a value, if it is known."""
    shape = _shape(value)
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    size = shape[axis]
    return size if isinstance(size, int) and size > 0 else None


_UNKNOWN_ROWS = 2
"""The number of rows assumed for a table of unknown size: nearly every table has at least as many."""


def _index(use: Use) -> Meaning:
    rows = _dim(use.node.input(0), use.node.attr("axis", 0))
    return Meaning(Kind.INDEX, bound=rows or _UNKNOWN_ROWS)


def _index_nd(use: Use) -> Meaning:
    data = _shape(use.node.input(0)) or ()
    first = use.node.attr("batch_dims", 0)
    depth = _dim(use.node.input(1), -1) or 1
    sizes = [size for size in data[first : first + depth] if isinstance(size, int) and size > 0]
    return Meaning(Kind.INDEX, bound=min(sizes, default=_UNKNOWN_ROWS))


def _into(position: int, axis: int) -> Callable[[Use], Meaning]:
    """Return an index into the given axis of another input."""
    return lambda use: Meaning(Kind.INDEX, bound=_dim(use.node.input(position), axis) or _UNKNOWN_ROWS)


def _one_hot(use: Use) -> Meaning:
    depth = use.node.input(1)
    constant = depth.constant if depth is not None else None
    return Meaning(Kind.INDEX, bound=max(1, int(constant.item())) if constant is not None else _UNKNOWN_ROWS)


def _length(use: Use) -> Meaning:
    axis = use.node.attr("time_axis", 0) if use.node.op_type == "ReverseSequence" else 0
    return Meaning(Kind.LENGTH, bound=_dim(use.node.input(0), axis) or 1)


def _into_length(use: Use) -> Meaning:
    """Return the number of valid keys of `Attention`, at most the length of the keys."""
    return Meaning(Kind.LENGTH, bound=_dim(use.node.input(1), -2) or 1)


def _compared(use: Use) -> Meaning | None:
    """Return the meaning of an operand of Equal with constants: a choice of these, or a one-hot encoding."""
    other = use.node.input(1 - use.index)
    constant = other.constant if other is not None else None
    if constant is None or constant.dtype is DType.STRING:
        return None
    if constant.size > 2 and np.array_equal(constant.numpy().ravel(), np.arange(constant.size)):
        return Meaning(Kind.INDEX, bound=constant.size)
    if constant.size > 16:
        return None
    return Meaning(Kind.CHOICE, values=tuple(float(item) for item in constant.numpy().ravel()))


def _one_minus(use: Use) -> Meaning | None:
    """Return the mask in `1 - mask`, by which exporters turn an attention mask into large negative numbers."""
    left = use.node.input(0)
    constant = left.constant if left is not None else None
    if use.index != 1 or constant is None or constant.size != 1 or constant.dtype is DType.STRING:
        return None
    return Meaning(Kind.MASK) if float(constant.item()) == 1.0 else None


def _kind(kind: Kind) -> Callable[[Use], Meaning]:
    return lambda use: Meaning(kind, use=use)


_Reader = Callable[[Use], Meaning | None]
_READERS: dict[Role, _Reader] = {
    Role.INDEX: _index,
    Role.LENGTH: _length,
    Role.COMPARED: _compared,
    Role.SUBTRACTED: _one_minus,
    Role.SHAPE: _kind(Kind.SHAPE),
    Role.MASK: _kind(Kind.MASK),
    Role.NONZERO: _kind(Kind.NONZERO),
    Role.POSITIVE: _kind(Kind.POSITIVE),
    Role.UNIT: _kind(Kind.UNIT),
}
# Inputs whose index or length is bounded by something other than the size of an axis of the first input.
_BOUNDED: dict[tuple[str, int], _Reader] = {
    ("GatherND", 1): _index_nd,
    ("ScatterND", 1): _index_nd,
    ("NegativeLogLikelihoodLoss", 1): _into(0, 1),
    ("SoftmaxCrossEntropyLoss", 1): _into(0, 1),
    ("com.microsoft::EmbedLayerNormalization", 0): _into(2, 0),
    ("com.microsoft::EmbedLayerNormalization", 1): _into(4, 0),
    ("OneHot", 0): _one_hot,
    ("Attention", 6): _into_length,
}


def _read(use: Use) -> Meaning | None:
    role = facts_of(use.node.op).roles.get(use.index)
    if role is None:
        return None
    reader = _BOUNDED.get((use.node.op, use.index)) or _READERS[role]
    return reader(use)


def _fit(meaning: Meaning, value: Value) -> Meaning:
    """Restrict a meaning to the dtype and shape of the input: many elements compared with a constant are a mask."""
    if meaning.kind is Kind.CHOICE and value.rank != 0 and value.shape != (1,):
        within = set(meaning.values) <= {0.0, 1.0}
        return Meaning(Kind.MASK) if within else Meaning(Kind.ANY)
    floating = value.dtype is not None and value.dtype.is_float
    if floating and meaning.kind in (Kind.CHOICE, Kind.LENGTH):
        return Meaning(Kind.ANY)
    return meaning


def _by_name(value: Value) -> Meaning:
    """Return the meaning that the name of an integer input suggests; a weak hint, if no operator shows more."""
    if value.dtype is None or not value.dtype.is_integer:
        return Meaning(Kind.ANY)
    if re.search(r"mask", value.name, re.IGNORECASE):
        return Meaning(Kind.MASK)
    if re.search(r"token_type|segment", value.name, re.IGNORECASE):
        return Meaning(Kind.INDEX, bound=2)
    return Meaning(Kind.ANY)
