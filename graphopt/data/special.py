"""Inputs that reveal errors where usual ones do not: zeros of both signs, NaN, infinities, extremes, sizes 0 and 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from graphopt.ir import Value

from .making import Maker
from .meaning import Kind, decides_sizes
from .sizes import Choice
from .windows import windows_fit

Feed = dict[str, Any]
_MOST_EMPTY = 4
"""The number of sizes that are set to 0, one after the other."""
_CRASH_ON_NOTHING = frozenset({"LSTM", "GRU", "RNN"})
"""Operators for which ONNX Runtime crashes the whole process if a size is 0."""
_HUGE = 1e30


def special_inputs(
    maker: Maker, usual: Feed, choice: Choice, sizes: Mapping[str, int]
) -> Iterator[tuple[list[Feed], bool]]:
    """Yield variants of `usual` inputs with planted numbers or changed sizes; the oracle may reject any of them.

    Each item is a list of inputs, the strictest first, of which one that the oracle supports is enough, and whether
    they contain numbers that are not finite. The user's inputs are not changed.
    """
    edges = _planted(maker, usual, _finite_edges)
    if edges is not None:
        yield [edges], False
    wild = [_planted(maker, usual, plant) for plant in (_all_wild, _infinite, _not_a_number)]
    if any(feed is not None for feed in wild):
        yield [feed for feed in wild if feed is not None], True
    free = maker.free
    ones = maker.related({**sizes, **dict.fromkeys(free, 1)})
    if free and ones != sizes:
        feed = maker.make(choice, ones)
        if windows_fit(maker.model, feed):
            yield [feed], False
    if not any(node.op_type in _CRASH_ON_NOTHING for node in maker.model.graph.all_nodes()):
        for symbol in free[:_MOST_EMPTY]:
            yield [maker.make(choice, maker.related({**sizes, symbol: 0}))], False


Plant = Callable[[np.ndarray, Value], np.ndarray | None]


def _planted(maker: Maker, usual: Feed, plant: Plant) -> Feed | None:
    """Return the inputs with numbers planted where nothing forbids it, or None if nothing was planted."""
    feed = dict(usual)
    for name, value in maker.values.items():
        array = feed[name]
        free = maker.meanings[name].kind is Kind.ANY and name not in maker.given and not decides_sizes(value)
        if free and isinstance(array, np.ndarray) and array.size >= 4:
            planted = plant(array, value)
            feed[name] = array if planted is None else planted
    return None if all(feed[name] is usual[name] for name in usual) else feed


def _finite_edges(array: np.ndarray, value: Value) -> np.ndarray | None:
    """Return an array with zeros of both signs among floats, or the smallest and largest among integers."""
    if value.dtype is None or value.dtype.bits < 8:
        return None
    if value.dtype.is_float:
        return _spread(array, (0.0, -0.0))
    if value.dtype.is_integer:
        info = np.iinfo(array.dtype)
        return _spread(array, (0, info.max, info.min))
    return None


def _all_wild(array: np.ndarray, value: Value) -> np.ndarray | None:
    return _spread(array, (np.inf, np.nan, -np.inf)) if _is_wide(value) else None


def _infinite(array: np.ndarray, value: Value) -> np.ndarray | None:
    return _spread(array, (np.inf,)) if _is_wide(value) else None


def _not_a_number(array: np.ndarray, value: Value) -> np.ndarray | None:
    return _spread(array, (np.nan,)) if _is_wide(value) else None


def _is_wide(value: Value) -> bool:
    """Return whether a type has infinities and NaN; types of 8 bits or fewer lack some of them."""
    return value.dtype is not None and value.dtype.is_float and value.dtype.bits >= 16


def _spread(array: np.ndarray, numbers: tuple[Any, ...]) -> np.ndarray:
    """Return a copy with the numbers planted far from each other, none in the first place."""
    copy = np.array(array)
    flat = copy.reshape(-1)
    for index, number in enumerate(numbers, 1):
        flat[index * flat.size // (len(numbers) + 1)] = number
    return copy


def survives(outputs: Mapping[str, Any]) -> bool:
    """Return whether most elements of every floating-point output are ordinary numbers although inputs are not finite.

    Otherwise there is nothing to compare, and which of several NaNs propagates is arbitrary. Some kernels of ONNX
    Runtime return the largest finite number where others return an infinity.
    """
    floats = [a for a in outputs.values() if isinstance(a, np.ndarray) and a.dtype.kind == "f" and a.size]
    return bool(floats) and all((np.abs(array) < _HUGE).mean() > 0.5 for array in floats)
