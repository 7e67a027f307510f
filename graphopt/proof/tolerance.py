"""Tolerances for outputs, and the comparison that says where they are exceeded.

The measure is the largest difference relative to the largest magnitude of the expected output: a single number with the
same meaning for logits, probabilities and images. Every comparison can fail: comparing zero elements is an error, and
so is a NaN or an infinity where there was none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.errors import VerificationError
from graphopt.ir import DType

Output = Any
"""An output of a graph: an array, a list of arrays (a sequence) or None (an empty optional)."""

_DEFAULTS = {
    DType.DOUBLE: 1e-7,
    DType.FLOAT: 1e-4,
    DType.COMPLEX64: 1e-4,
    DType.COMPLEX128: 1e-7,
    DType.FLOAT16: 1e-2,
    DType.BFLOAT16: 4e-2,
    DType.FLOAT8E4M3FN: 0.125,
    DType.FLOAT8E4M3FNUZ: 0.125,
    DType.FLOAT8E5M2: 0.25,
    DType.FLOAT8E5M2FNUZ: 0.25,
    DType.FLOAT4E2M1: 0.5,
}


@dataclass(frozen=True)
class Tolerance:
    """The largest error allowed, relative to the largest magnitude of the expected output.

    `relative` overrides the defaults by dtype (float64 1e-7, float32 1e-4, float16 1e-2, bfloat16 4e-2). Integers,
    booleans and strings must be equal unless `outputs` has an error for that output by name, which takes precedence
    over `relative` for any dtype. `absolute` further limits the difference itself, for outputs by name
    that are not in `outputs`. With `exact`, all bits must be equal (any NaN equals any other).
    """

    relative: Mapping[DType, float] = field(default_factory=dict)
    outputs: Mapping[str, float] = field(default_factory=dict)
    exact: bool = False
    absolute: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for allowed in (*self.relative.values(), *self.outputs.values()):
            if not 0 <= allowed < 1:
                raise ValueError(f"a relative error of {allowed} would accept anything: it must be in [0, 1)")

    @classmethod
    def uniform(cls, allowed: float) -> Tolerance:
        """Return a tolerance with the same relative error for every floating-point dtype."""
        return cls(dict.fromkeys(_DEFAULTS, allowed))

    def allowed(self, name: str, dtype: DType) -> float:
        """The error allowed in output `name` of this dtype."""
        if self.exact:
            return 0.0
        if name in self.outputs:
            return self.outputs[name]
        return self.relative.get(dtype, _DEFAULTS.get(dtype, 0.0))

    def allowed_in(self, name: str, expected: np.ndarray) -> float:
        """The error allowed in output `name`, of which these elements are expected."""
        allowed = self.allowed(name, DType.of(expected))
        if self.exact or name in self.outputs or name not in self.absolute or not expected.size:
            return allowed
        finite = expected[np.isfinite(expected)].astype(np.float64)
        return min(allowed, self.absolute[name] / (float(np.abs(finite).max(initial=0.0)) or 1.0))


EXACT = Tolerance(exact=True)
"""All bits must be equal."""


@dataclass(frozen=True)
class Difference:
    """The comparison of one output: `error` (against `allowed`) at its worst `index`, or a `problem` beyond numbers."""

    name: str
    error: float = 0.0
    allowed: float = 0.0
    index: tuple[int, ...] = ()
    expected: Any = None
    got: Any = None
    problem: str = ""
    elements: int = 0

    @property
    def ok(self) -> bool:
        return not self.problem and self.error <= self.allowed

    def __str__(self) -> str:
        at = f"[{','.join(map(str, self.index))}]" if self.index else ""
        values = "" if self.expected is None else f" (expected {self.expected}, got {self.got})"
        if self.problem:
            return f"output '{self.name}'{at}: {self.problem}{values}"
        return f"output '{self.name}'{at}: relative error {self.error:.3g}, allowed {self.allowed:.3g}{values}"


@dataclass(frozen=True)
class Comparison:
    """The differences of all outputs, in the order of the outputs."""

    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        return all(difference.ok for difference in self.differences)

    @property
    def worst(self) -> Difference:
        """The output with the largest error relative to its tolerance."""
        return max(self.differences, key=_badness)

    @property
    def error(self) -> float:
        """The largest relative error of any output; infinite if there is a difference beyond numbers."""
        return max(float("inf") if d.problem else d.error for d in self.differences)

    def __str__(self) -> str:
        return "\n".join(str(d) for d in sorted(self.differences, key=_badness, reverse=True))


def _badness(difference: Difference) -> tuple[bool, float]:
    return bool(difference.problem), difference.error / (difference.allowed or 1e-12)


def compare(
    expected: Mapping[str, Output],
    got: Mapping[str, Output],
    tolerance: Tolerance | None = None,
    *,
    empty: bool = False,
) -> Comparison:
    """Compare outputs by name: the same names, structure, dtypes and shapes, and numbers within `tolerance`.

    Raises VerificationError if there is nothing to compare: no output, or only outputs without elements, unless these
    may be `empty`.
    """
    tolerance = tolerance or Tolerance()
    differences: list[Difference] = []
    for name in expected:
        if name not in got:
            differences.append(Difference(name, problem="is missing"))
        else:
            differences.extend(_compare_any(name, expected[name], got[name], tolerance))
    differences.extend(Difference(name, problem="is new") for name in got if name not in expected)
    if not empty and not any(d.elements or d.problem for d in differences):
        raise VerificationError(
            "nothing was compared: the outputs have no elements",
            remedy="use inputs for which the outputs are not empty",
        )
    return Comparison(tuple(differences))


def _compare_any(name: str, expected: Output, got: Output, tolerance: Tolerance) -> list[Difference]:
    if expected is None or got is None:
        same = expected is None and got is None
        return [Difference(name, problem="" if same else "an optional is empty in only one", elements=1)]
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        if list(expected) != list(got):
            return [Difference(name, problem="the keys of a map differ")]
        expected, got = list(expected.values()), list(got.values())
    if isinstance(expected, Sequence) and isinstance(got, Sequence) and not isinstance(expected, str | bytes):
        if len(expected) != len(got):
            return [Difference(name, problem=f"a sequence of {len(got)}, expected {len(expected)}")]
        pairs = enumerate(zip(expected, got))
        parts = [d for i, (e, g) in pairs for d in _compare_any(f"{name}[{i}]", e, g, tolerance)]
        return parts or [Difference(name, elements=1)]
    return [_compare_arrays(name, np.asarray(expected), np.asarray(got), tolerance)]


def _compare_arrays(name: str, expected: np.ndarray, got: np.ndarray, tolerance: Tolerance) -> Difference:
    if expected.dtype != got.dtype:
        return Difference(name, problem=f"dtype is {got.dtype}, expected {expected.dtype}")
    if expected.shape != got.shape:
        return Difference(name, problem=f"shape is {list(got.shape)}, expected {list(expected.shape)}")
    dtype = DType.of(expected)
    allowed = tolerance.allowed_in(name.split("[")[0], expected)
    if expected.size == 0:
        return Difference(name, allowed=allowed)
    if not _is_real(dtype):
        if dtype.is_integer and allowed:
            return _numeric(name, expected, got, allowed)
        return _first_mismatch(name, expected, got, np.asarray(expected != got), "differs")
    strange = _first_mismatch(name, expected, got, _strange(expected, got), "a NaN or an infinity in only one")
    if strange.problem:
        return strange
    if tolerance.exact:
        different = (_bits(expected) != _bits(got)) & ~np.isnan(expected)
        return _first_mismatch(name, expected, got, different, "the bits differ")
    return _numeric(name, expected, got, allowed)


def _is_real(dtype: DType) -> bool:
    return dtype.is_float or dtype in (DType.COMPLEX64, DType.COMPLEX128)


def _bits(array: np.ndarray) -> np.ndarray:
    """Return the elements as raw bytes, one void scalar each, which are equal if and only if all bits are."""
    return np.ascontiguousarray(array).view(f"V{array.dtype.itemsize}").reshape(array.shape)


def _strange(expected: np.ndarray, got: np.ndarray) -> np.ndarray:
    """Return where one is not finite and the other is not the same."""
    both_nan = np.isnan(expected) & np.isnan(got)
    return (~np.isfinite(expected) | ~np.isfinite(got)) & (expected != got) & ~both_nan


def _first_mismatch(name: str, expected: np.ndarray, got: np.ndarray, mismatch: np.ndarray, problem: str) -> Difference:
    count = int(np.count_nonzero(mismatch))
    if not count:
        return Difference(name, elements=expected.size)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(mismatch)), expected.shape))
    of = f"{problem} in {count} of {expected.size} elements"
    return Difference(name, 1.0, 0.0, index, _plain(expected[index]), _plain(got[index]), of, elements=expected.size)


def _numeric(name: str, expected: np.ndarray, got: np.ndarray, allowed: float) -> Difference:
    difference = _relative(expected, got)
    worst = int(np.argmax(difference))
    index = tuple(int(i) for i in np.unravel_index(worst, expected.shape))
    error = float(difference.ravel()[worst])
    return Difference(name, error, allowed, index, _plain(expected[index]), _plain(got[index]), elements=expected.size)


def relative_errors(expected: Output, got: Output) -> list[np.ndarray]:
    """Return the relative error of each element, one array for each array in an output.

    Errors are relative to the largest expected magnitude. Equal elements have error 0, including NaN and infinities;
    the error is infinite if dtype, shape or structure differ, or if only one element is finite. Non-numeric elements
    have error 0 or 1.
    """
    if isinstance(expected, Mapping):
        expected, got = list(expected.values()), list(got.values()) if isinstance(got, Mapping) else None
    if isinstance(expected, list | tuple):
        same = isinstance(got, list | tuple) and len(got) == len(expected)
        others = got if same else [None] * len(expected)
        return [errors for e, g in zip(expected, others) for errors in relative_errors(e, g)]
    if expected is None or got is None:
        return [] if expected is got else [np.full(np.shape(expected) or (1,), np.inf)]
    left, right = np.asarray(expected), np.asarray(got)
    if left.shape != right.shape or left.dtype != right.dtype:
        return [np.full(left.shape or (1,), np.inf)]
    dtype = DType.of(left)
    if left.size == 0 or not (_is_real(dtype) or dtype.is_integer):
        return [np.asarray(left != right).astype(np.float64)]
    errors = _relative(left, right).astype(np.float64)
    return [np.where(_strange(left, right), np.inf, errors) if _is_real(dtype) else errors]


def _relative(expected: np.ndarray, got: np.ndarray) -> np.ndarray:
    """Compute |got - expected| relative to the largest |expected|, and 0 for equal infinities or two NaNs.

    Masks are often filled with the most negative number of a type. Compared to it every other error would vanish, so
    such elements are compared relative to themselves and do not count as the largest.
    """
    if DType.of(expected).is_integer:
        wide = np.where(expected > got, expected, got).astype(np.float64)
        narrow = np.where(expected > got, got, expected).astype(np.float64)
        return (wide - narrow) / (np.max(np.abs(expected.astype(np.float64))) or 1.0)
    if expected.dtype.itemsize < 4:
        limit = float(_finfo(expected.dtype).max)
        expected, got = expected.astype(np.float32), got.astype(np.float32)
    else:
        limit = float(np.finfo(expected.dtype).max)
    with np.errstate(all="ignore"):
        magnitude = np.abs(expected)
        usual = magnitude < limit / 4
        largest = np.max(magnitude, where=usual, initial=0.0)
        # An output that is all zeros has no scale of its own: its errors are absolute.
        scale = np.where(usual, largest or 1.0, magnitude)
        difference = np.abs(got - expected) / scale
        return np.where(np.isfinite(expected) & np.isfinite(got), difference, 0.0)


def _finfo(dtype: np.dtype) -> Any:
    import ml_dtypes

    return ml_dtypes.finfo(dtype)


def _plain(item: Any) -> Any:
    return item.item() if isinstance(item, np.generic) else item
