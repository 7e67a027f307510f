"""Elementary functions over their whole range, against double precision: the errors that their docstrings state."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tvm
from tvm import te, tirx

from graphopt.hardware.target import load
from graphopt.targets.tvm.kernels.common.math import exp_nonpositive
from graphopt.targets.tvm.tir_passes.pipeline import PIPELINE
from tests.targets.schedule.support import execute, placeholder, scheduled

SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 3.4e38, -3.4e38]


def sweep(low: float, high: float) -> np.ndarray:
    """Numbers all over a range, small ones of each size, and special ones; an odd count."""
    sizes = np.logspace(-37, math.log10(max(high, -low)), 20001)
    parts = [np.linspace(low, high, 100001), sizes, -sizes, SPECIAL]
    values = np.concatenate(parts).astype(np.float32)
    return values[~((values < low) | (values > high)) | (np.isinf(values) & (values < max(high, 1)))]


def ulps(have: np.ndarray, want: np.ndarray) -> float:
    """The largest error, in units of the last place of the right result; inf where one of both is not a number."""
    if not np.array_equal(np.isnan(have), np.isnan(want)):
        return math.inf
    with np.errstate(over="ignore"):
        right = want.astype(np.float32)
    finite = np.isfinite(right)
    if not np.array_equal(have[~finite & ~np.isnan(want)], right[~finite & ~np.isnan(want)]):
        return math.inf
    size = np.spacing(np.maximum(np.abs(right[finite]), np.finfo(np.float32).tiny)).astype("float64")
    return float((np.abs(have[finite].astype("float64") - want[finite]) / size).max())


def run(function: object, values: np.ndarray) -> np.ndarray:
    x = placeholder(values.shape)
    y = te.compute(x.shape, lambda i: function(x(i)), name="y")  # type: ignore[operator]
    return execute(scheduled([x, y]), [values], [values])[0]


@pytest.mark.parametrize(
    ("function", "right", "low", "high", "most"),
    [
        (tirx.exp, np.exp, -110.0, 95.0, 2.0),
        (tirx.tanh, np.tanh, -20.0, 20.0, 5.0),
        (tirx.erf, np.vectorize(math.erf), -8.0, 8.0, 6.0),
        (tirx.sigmoid, lambda x: 1 / (1 + np.exp(-x)), -87.0, 30.0, 3.0),
        (exp_nonpositive, np.exp, -87.3, 0.0, 2.0),
        (tirx.log, np.log, -1.0, 1e30, 4.0),
        (tirx.log1p, np.log1p, -1.5, 1e30, 4.0),
        (tirx.sin, np.sin, -1000.0, 1000.0, 2.0),
        (tirx.cos, np.cos, -1000.0, 1000.0, 2.0),
    ],
)
def test_errors(function: object, right: object, low: float, high: float, most: float) -> None:
    values = sweep(low, high)
    with np.errstate(all="ignore"):
        want = right(values.astype("float64"))  # type: ignore[operator]
    rounded_twice = 0.0 if "fma" in load("host").features else 0.5
    assert ulps(run(function, values), want) <= most + rounded_twice


def test_small_exponentials_are_zero() -> None:
    values = np.array([-88.0, -1e30, -math.inf, 0.0], np.float32)
    np.testing.assert_array_equal(run(exp_nonpositive, values), [0, 0, 0, 1])


def test_waves_of_large_numbers() -> None:
    """Random bits: numbers of every size, and the one nearest to a multiple of pi / 2 for its size."""
    random = np.random.default_rng(0).integers(0, 1 << 32, 100001, dtype=np.uint64).astype(np.uint32).view(np.float32)
    values = np.concatenate([random[np.isfinite(random)], [16367173 * 2.0**72, 3.4028235e38]]).astype(np.float32)
    for function, right in ((tirx.sin, math.sin), (tirx.cos, math.cos)):
        assert ulps(run(function, values), np.vectorize(right)(values.astype("float64"))) <= 3
        assert np.isnan(run(function, np.array([math.inf, -math.inf, math.nan], np.float32))).all()


def test_the_sigmoid_goes_to_its_limits() -> None:
    values = np.array([-math.inf, -1e30, -89.0, 20.0, 1e30, math.inf], np.float32)
    np.testing.assert_array_equal(run(tirx.sigmoid, values), [0, 0, 0, 1, 1, 1])


def test_far_from_zero_the_hyperbolic_tangent_is_one() -> None:
    """GELU multiplies what is missing by any number, and minus infinity by zero, which makes it NaN."""
    values = np.array([-math.inf, -1e30, -10.0, 10.0, 1e30, math.inf], np.float32)
    np.testing.assert_array_equal(run(tirx.tanh, values), [-1, -1, -1, 1, 1, 1])


def test_far_from_zero_the_error_function_is_one() -> None:
    values = np.array([-1e30, -5.0, 4.5, math.inf], np.float32)
    np.testing.assert_array_equal(run(tirx.erf, values), [-1, -1, 1, 1])


@pytest.mark.parametrize("function", [tirx.exp, tirx.tanh, tirx.erf, tirx.sigmoid, tirx.log1p, tirx.sin, tirx.cos])
def test_nothing_stays_scalar(function: object) -> None:
    x = placeholder((4096,))
    y = te.compute(x.shape, lambda i: function(x(i)), name="y")  # type: ignore[operator]
    library = tvm.compile(
        tvm.IRModule({"main": scheduled([x, y]).with_attr("global_symbol", "main")}), "llvm", tir_pipeline=PIPELINE
    )
    text = library.mod.inspect_source("ll")
    assert not any(f"@{name}" in text for name in ("expf", "tanhf", "erff", "log1pf", "sinf", "cosf"))


@pytest.mark.parametrize(
    ("dtype", "low", "high", "stays"),
    [("uint8", 0, 255, False), ("int8", -128, 127, False), ("int8", 0, 255, True)],
)
def test_integers_that_become_floats_at_once_are_not_made_small(dtype: str, low: int, high: int, stays: bool) -> None:
    """Unless that changes them."""
    values = np.concatenate([np.linspace(-300, 300, 2401), [1e9, -1e9, 0.5, 1.5]]).astype(np.float32)

    def element(x: object) -> object:
        rounded = tirx.nearbyint(x) + tirx.const(3, "float32")
        clamped = tirx.max(tirx.min(rounded, tirx.const(high, "float32")), tirx.const(low, "float32"))
        return clamped.astype("int32").astype(dtype).astype("float32") * tirx.const(0.5, "float32")

    x = placeholder(values.shape)
    func = scheduled([x, te.compute(x.shape, lambda i: element(x(i)), name="y")])
    assert (dtype in func.script()) == stays
    want = np.clip(np.rint(values) + 3, low, high).astype(np.int32).astype(dtype).astype(np.float32) * np.float32(0.5)
    np.testing.assert_array_equal(execute(func, [values], [values])[0], want)
