"""Stores of bytes: the results of several vectors of 32-bit integers become one vector of bytes.

One instruction narrows two vectors of x86 processors, with saturation, within each 128 bits; a permutation puts the
results into order. That is half as many instructions as to narrow each vector, and the saturation is the lower limit of
a quantization, which then need not be computed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tvm import sym, tirx

from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.machine import WHOLE_NUMBERS, Machine
from graphopt.targets.tvm.tir_passes import let

MOST = 4
"""The vectors of 32-bit integers whose results are one vector of bytes."""
_NAMES = {64: "llvm.x86.avx512.{}.512", 32: "llvm.x86.avx2.{}", 16: "llvm.x86.sse2.{}.128"}
_NARROW = {"uint8": "packuswb", "int8": "packsswb"}


@dataclass(frozen=True)
class Narrowing:
    """How an integer type of 8 bits, `dtype`, is made of vectors of `lanes` numbers.

    `number`: the elementwise int32 expression that is narrowed. It may be below the lower limit of the type, and
    `offset`, a whole number as a float, is still to be added to it.
    """

    dtype: str
    lanes: int
    number: Any
    offset: Any

    @staticmethod
    def of(value: Any, lanes: int, machine: Machine) -> Narrowing | None:
        """Return how to store `value`, an elementwise expression; None if that is not what these instructions do."""
        if let.is_let(value):
            number, bound, body = value.args
            found = Narrowing.of(body, lanes, machine)
            named = found and tirx.call_intrin("int32", value.op, number, bound, found.number)
            return found and dataclasses.replace(found, number=named)
        if not isinstance(value, tirx.Cast) or WHOLE_NUMBERS.get(lanes * 4) not in machine.instructions:
            return None
        dtype, number = str(value.ty.dtype), value.value
        if dtype not in _NARROW or not isinstance(number, tirx.Cast) or str(number.ty.dtype) != "int32":
            return None
        limits = _limits(number.value)
        if limits is None:
            return None
        rounded, offset, low, high = limits
        if dtype == "uint8" and low.value == 0:
            low = tirx.const(-math.inf, "float32")
        else:
            low = low - offset
        number = tirx.Max(tirx.Min(rounded, high - offset), low).astype("int32")
        return Narrowing(dtype, lanes, number, offset)

    def bytes(self, words: Any, count: int) -> Any:
        """Return `count` vectors of numbers in the buffer `words`, from 2 to `MOST`, as one vector of bytes."""
        lanes, size = self.lanes, self.lanes * 4
        each = [words[tirx.Ramp(long(min(i, count - 1) * lanes), long(1), lanes)] for i in range(MOST)]
        wide = f"int16x{lanes * 2}"
        offset = tirx.Broadcast(self.offset.astype("int16"), lanes * 2)
        pairs = [_call(wide, "packssdw", size, a, b) + offset for a, b in (each[:2], each[2:])]
        mixed = tirx.reinterpret(f"int32x{lanes}", _call(f"{self.dtype}x{size}", _NARROW[self.dtype], size, *pairs))
        parts = lanes // 4  # of 128 bits, in which are four bytes of each vector
        order = [tirx.const(part * 4 + vector, "int32") for vector in range(count) for part in range(parts)]
        return tirx.reinterpret(f"{self.dtype}x{count * lanes}", tirx.Shuffle([mixed], order))


def _limits(value: Any) -> tuple[Any, Any, Any, Any] | None:
    """Return x, zero, low and high of max(min(x + zero, high), low), where x is rounded; None for anything else."""
    if not isinstance(value, tirx.Max) or not isinstance(value.a, tirx.Min):
        return None
    rounded, high, low = value.a.a, value.a.b, value.b
    zero: Any = tirx.const(0, "float32")
    if isinstance(rounded, tirx.Add):
        rounded, zero = rounded.a, rounded.b
    is_rounded = getattr(getattr(rounded, "op", None), "name", "") == "tirx.nearbyint"
    if not is_rounded or str(rounded.ty.dtype) != "float32" or not isinstance(low, tirx.FloatImm):
        return None
    return rounded, zero, low, high


def _call(dtype: str, name: str, size: int, *operands: Any) -> Any:
    return tirx.call_llvm_pure_intrin(dtype, _NAMES[size].format(name), *operands)


def groups(vectors: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Divide vectors into groups of at most `MOST` with adjacent places: alike but for the last index."""
    found: list[list[tuple[int, ...]]] = []
    for _, alike in groupby(sorted(vectors), key=lambda vector: vector[:-1]):
        row = list(alike)
        found += [row[i : i + MOST] for i in range(0, len(row), MOST)]
    return found


def is_adjacent(buffer: tirx.Buffer, first: Sequence[Any], second: Sequence[Any], distance: int) -> bool:
    """Return whether two elements of a buffer are known to be a distance apart in memory."""

    def flat(indices: Sequence[Any]) -> Any:
        place: Any = long(0)
        for index, size in zip(indices, buffer.shape, strict=True):
            place = place * size + index
        return place

    return bool(sym.Analyzer().can_prove_equal(flat(second) - flat(first), long(distance)))
