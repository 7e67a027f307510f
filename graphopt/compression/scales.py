"""Scales and zero points: the mapping between floats and the integers that stand for them.

As in ONNX's QuantizeLinear, `q = saturate(round(x / scale) + zero_point)`, rounded to the nearest even number, and
`x` is about `(q - zero_point) * scale`.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from graphopt.errors import InputError

_LIMITS = {
    name: (int(ml_dtypes.iinfo(name).min), int(ml_dtypes.iinfo(name).max))
    for name in ("int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2")
}
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class IntegerScheme:
    """How numbers become integers.

    `dtype`: `int8`, `uint8`, or the same with 16, 4 or 2 bits. `symmetric`: the zero point is the middle of the range,
    0 of a signed type, whose lowest number then is not used, so that the range is as wide on both sides.
    `power_of_two`: scales are powers of two, by which a shift multiplies. `bits`: how many bits of the type are used,
    such as 3 of an `int4`; None: all.

    Raises InputError for any other type, and for more bits than it has.
    """

    dtype: str = "uint8"
    symmetric: bool = False
    power_of_two: bool = False
    bits: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in _LIMITS:
            raise InputError(f"cannot quantize to '{self.dtype}'", remedy=f"the types are: {', '.join(_LIMITS)}")
        if self.bits is not None and not 2 <= self.bits <= ml_dtypes.iinfo(self.dtype).bits:
            raise InputError(f"{self.dtype} cannot be used with {self.bits} bits")

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and largest integers that are used."""
        low, high = _LIMITS[self.dtype]
        if self.bits is not None:
            unused = ml_dtypes.iinfo(self.dtype).bits - self.bits
            low, high = low >> unused, high >> unused
        return (-high, high) if self.symmetric and low < 0 else (low, high)

    @property
    def numpy(self) -> np.dtype:
        return np.dtype(getattr(ml_dtypes, self.dtype, self.dtype))

    def fit(self, low: np.ndarray | float, high: np.ndarray | float) -> Scale:
        """Return scales and zero points for ranges of numbers, which are widened to include zero.

        A range without numbers (`low` above `high`) or of zeros only gets the scale 1. Raises InputError for ranges
        that are not finite.
        """
        low, high = np.minimum(np.asarray(low, np.float64), 0), np.maximum(np.asarray(high, np.float64), 0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise InputError("a range to be quantized is not finite", remedy="remove samples that overflow the model")
        first, last = self.limits
        middle = 0 if first < 0 else (first + last + 1) // 2
        if self.symmetric:
            scale = np.maximum(-low, high) / (last - middle)
        else:
            scale = (high - low) / (last - first)
        scale = np.where(scale == 0, 1.0, np.maximum(scale, _SMALLEST_SCALE))
        if self.power_of_two:
            scale = np.exp2(np.ceil(np.log2(scale)))
        scale = scale.astype(np.float32).astype(np.float64)  # what is stored
        point = np.full(scale.shape, middle) if self.symmetric else np.clip(np.rint(first - low / scale), first, last)
        return Scale(self, scale.astype(np.float32), point.astype(np.int64).astype(self.numpy))


@dataclass(frozen=True)
class Scale:
    """Scales (float32) and zero points (of the scheme's type): one number each, or those of all channels of an axis."""

    scheme: IntegerScheme
    scale: np.ndarray
    zero_point: np.ndarray

    def quantize(self, array: np.ndarray, axis: int | None = None) -> np.ndarray:
        """Return the integers that stand for an array; `axis` is that of the channels. NaN becomes the zero point."""
        return self._steps(array, axis).astype(np.int32).astype(self.scheme.numpy)

    def dequantize(self, integers: np.ndarray, axis: int | None = None) -> np.ndarray:
        """Return float32 numbers."""
        return self._floats(integers.astype(np.float32), axis)

    def rounded(self, array: np.ndarray, axis: int | None = None) -> np.ndarray:
        """Return the numbers that are left of an array after quantization."""
        return self._floats(self._steps(array, axis), axis)

    def _steps(self, array: np.ndarray, axis: int | None) -> np.ndarray:
        """Return the integers as float32, which holds those of 16 bits: this is done often, for weights by millions."""
        scale, point = self._along(array.ndim, axis)
        with np.errstate(over="ignore"):
            steps = np.rint(np.divide(array, scale, dtype=np.float32))
        steps += point
        np.clip(steps, *self.scheme.limits, out=steps)
        strange = np.isnan(steps)
        return np.where(strange, point, steps) if strange.any() else steps

    def _floats(self, steps: np.ndarray, axis: int | None) -> np.ndarray:
        scale, point = self._along(steps.ndim, axis)
        floats: np.ndarray = (steps - point) * scale
        return floats

    def _along(self, rank: int, axis: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the scale and the zero point as float32 arrays, which broadcast against one of that rank."""
        point = self.zero_point.astype(np.float32)
        if axis is None:
            return self.scale, point
        shape = [-1 if i == axis % rank else 1 for i in range(rank)]
        return self.scale.reshape(shape), point.reshape(shape)
