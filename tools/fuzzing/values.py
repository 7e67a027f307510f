"""Random arrays: ordinary numbers, and those that code gets wrong (NaN, infinities, -0.0, extremes, sizes 0 and 1)."""

from __future__ import annotations

import random

import ml_dtypes
import numpy as np

FLOATS = ("float32", "float64", "float16", "bfloat16")
INTEGERS = ("int64", "int32", "uint8", "int8", "int16", "uint16", "uint32", "uint64")
DTYPES = (*FLOATS, *INTEGERS, "bool")
_WEIGHTS = {"float32": 24, "float16": 3, "float64": 3, "int64": 6, "int32": 3, "uint8": 2, "int8": 2, "bool": 2}
_SPECIAL = (0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-30, -1e-30, 60000.0, -60000.0)
_LARGEST_HALF = 200.0
"""A limit for finite float16: ONNX Runtime computes in float32, and does not round to infinity between two nodes."""
_SIZES = (1, 2, 3, 4, 5, 7, 8, 16)


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text, for long lists of names."""
    return tuple(text.split())


def numpy_dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def is_float(array: np.ndarray) -> bool:
    """Return whether the elements are floating-point numbers, including those of ml_dtypes."""
    return array.dtype.kind == "f" or array.dtype == numpy_dtype("bfloat16")


def any_dtype(rng: random.Random, among: tuple[str, ...] = DTYPES) -> str:
    """Return one of the dtypes, float32 more often than others."""
    return rng.choices(among, [_WEIGHTS.get(name, 1) for name in among])[0]


def any_size(rng: random.Random) -> int:
    return 0 if rng.random() < 0.02 else rng.choice(_SIZES)


def any_shape(rng: random.Random, low: int = 0, high: int = 4) -> tuple[int, ...]:
    """Return a shape whose rank is in `low`..`high`, of at most 2,048 elements."""
    shape: list[int] = []
    for _ in range(rng.randint(low, high)):
        size = any_size(rng)
        shape.append(size if int(np.prod([*shape, size])) <= 2048 else 1)
    return tuple(shape)


def numbers(rng: random.Random, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of that dtype and shape, sometimes with special numbers among ordinary ones."""
    source = np.random.default_rng(rng.getrandbits(32))
    special = rng.random() < 0.15
    if dtype == "bool":
        return source.random(shape) < 0.5
    if dtype in FLOATS:
        array = source.normal(size=shape) * rng.choice((1, 1, 1, 3))
        if rng.random() < 0.2:
            array = np.round(array * 2) / 2
        if special:
            array = np.where(source.random(shape) < 0.2, source.choice(_SPECIAL, shape), array)
        if dtype == "float16":
            array = np.where(np.isfinite(array), np.clip(array, -_LARGEST_HALF, _LARGEST_HALF), array)
        return np.asarray(array).astype(numpy_dtype(dtype))
    limits = np.iinfo(dtype)
    array = source.integers(max(limits.min, -5), 10, shape).astype(dtype)
    if special:
        array = np.where(source.random(shape) < 0.2, source.choice([limits.min, limits.max], shape), array)
    return np.asarray(array).astype(dtype)


def neighbour(rng: random.Random, array: np.ndarray, sums: bool) -> np.ndarray:
    """Return `array` as another correct implementation might have computed it: off by roundings.

    With `sums`, the error is also relative to the largest element, like that of a sum of such terms.
    """
    if not is_float(array) or not array.size:
        return array
    eps = 2 * float(ml_dtypes.finfo(array.dtype).eps)
    wide = array.astype(np.float64)
    finite = np.isfinite(wide)
    largest = np.max(np.abs(wide), where=finite, initial=0.0) if sums else 0.0
    noise = np.random.default_rng(rng.getrandbits(32)).uniform(-eps, eps, array.shape)
    with np.errstate(all="ignore"):
        return np.where(finite, wide + noise * (np.abs(wide) + largest), wide).astype(array.dtype)
