"""Constants with a number, or an array, for each channel, as floats or as the integers that stand for these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from graphopt.ir import Value
from graphopt.passes.quantization._pairs import Mapping, dequantize, dequantized
from graphopt.rewriting.passes import Rewriter


@dataclass(frozen=True)
class Constant:
    """The contents of a constant; with a `mapping`, integers that a DequantizeLinear reads."""

    array: np.ndarray
    mapping: Mapping | None
    name: str

    @property
    def is_finite(self) -> bool:
        return self.mapping is not None or bool(np.isfinite(self.array.astype(np.float32)).all())

    def moved(self, array: np.ndarray, channels: Callable[[np.ndarray], np.ndarray]) -> Constant:
        """Return `array`, whose axis 0 has the channels that `channels` takes from a vector with one number for each.

        The vector is that of the scales, where each channel has its own.
        """
        mapping = self.mapping
        if mapping is not None and mapping.axis is not None:
            mapping = replace(mapping, scale=channels(mapping.scale), zero=channels(mapping.zero), axis=0)
        return Constant(array, mapping, self.name)

    def value(self, rewriter: Rewriter) -> Value:
        """Return a value of the graph with these contents, which are floats."""
        stored = rewriter.constant(self.array, self.name)
        return stored if self.mapping is None else dequantize(rewriter, stored, self.mapping)


def constant_of(value: Value | None, axis: int) -> Constant | None:
    """Return the contents of a constant; None if it is computed, or stands for floats in another way.

    Integers may have one scale, or one for each channel, which are along `axis`.
    """
    if value is None or value.constant is not None:
        return None if value is None or value.constant is None else Constant(value.constant.numpy(), None, value.name)
    source = dequantized(value)
    if source is None or source.integers.constant is None:
        return None
    if source.mapping.axis not in (None, axis):
        return None
    return Constant(source.integers.constant.numpy(), source.mapping, source.integers.name)
