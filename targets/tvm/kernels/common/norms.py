"""Vectors in registers, and a test that sees whether they are all finite at the cost of an instruction each."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.nest import vectorized

LARGEST_NORM = 2.0**60
"""The largest sum of squares that counts as usual: values of about 1e9."""


class Registers:
    """`count` vectors of fp32 that live in registers; they must be written before they are read."""

    def __init__(self, count: int, lanes: int) -> None:
        self._lanes = lanes
        self._buffer = T.alloc_buffer((count * lanes,), "float32", scope="local")

    def load(self, index: int, lane: Any) -> Any:
        return self._buffer[long(index * self._lanes) + lane]

    def store(self, index: int, lane: Any, value: Any) -> None:
        T.buffer_store(self._buffer, value, [long(index * self._lanes) + lane])


def number(value: Fraction | int) -> Any:
    """A constant of type float32."""
    return tirx.const(float(value), "float32")


class Norms:
    """The sum of the squares of what is added, in each lane."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._squares = Registers(2, lanes)
        for i in range(2):
            with vectorized(lanes) as lane:
                self._squares.store(i, lane, number(0))

    def add(self, index: int, lane: Any, value: Any) -> None:
        """Add to the sum `index`, of two that do not wait for each other."""
        self._squares.store(index, lane, self._squares.load(index, lane) + value * value)

    def are_usual(self) -> Any:
        """Emit the sum over all lanes; the condition that it is a number that is not large."""
        with vectorized(self._lanes) as lane:
            self._squares.store(0, lane, self._squares.load(0, lane) + self._squares.load(1, lane))
        width = self._lanes
        while width > 1:
            width //= 2
            with vectorized(width) as lane:
                self._squares.store(0, lane, self._squares.load(0, lane) + self._squares.load(0, lane + width))
        # As integers, of which the larger ones are infinity and NaN of either sign: a comparison with NaN is false,
        # and so is its opposite, which passes of the compiler may put in its place.
        bits = tirx.reinterpret("int32", self._squares.load(0, long(0))) & tirx.const(0x7FFFFFFF, "int32")
        return bits <= tirx.const(int(np.float32(LARGEST_NORM).view(np.int32)), "int32")
