"""Calibration: each method on numbers for which its choice is known, or better than the plain range."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.compression.accumulators import KINDS, Accumulator
from graphopt.compression.calibration import METHODS, Calibration
from graphopt.compression.scales import IntegerScheme
from graphopt.errors import InputError

RNG = np.random.default_rng(0)
UNSIGNED, SIGNED = IntegerScheme("uint8"), IntegerScheme("int8", symmetric=True)


def seen(*arrays: np.ndarray) -> dict[str, Accumulator]:
    made = {name: kind() for name, kind in KINDS.items()}
    for array in arrays:
        for accumulator in made.values():
            accumulator.add(array)
    return made


def error(array: np.ndarray, bounds: tuple[float, float], scheme: IntegerScheme) -> float:
    return float(np.square(scheme.fit(*bounds).rounded(array) - array).mean())


def normal(outliers: float = 0.0, size: int = 20_000) -> np.ndarray:
    array = RNG.normal(size=(1, size)).astype(np.float32)
    array[0, :3] = outliers or array[0, :3]
    return array


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("scheme", [UNSIGNED, SIGNED])
def test_nothing_is_lost_where_all_numbers_are_alike(method: str, scheme: IntegerScheme) -> None:
    array = np.linspace(-1, 3, 4001, dtype=np.float32).reshape(1, -1)
    low, high = Calibration(method, percentile=100).bounds(seen(array), scheme)
    assert -1 <= low <= -0.97
    assert 2.97 <= high <= 3


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("array", [np.zeros((1, 9), np.float32), np.full((2, 2), np.nan, np.float32)])
def test_zeros_and_what_is_no_number(method: str, array: np.ndarray) -> None:
    assert Calibration(method).bounds(seen(array), UNSIGNED) == (0, 0)


@pytest.mark.parametrize("method", ["entropy", "percentile"])
@pytest.mark.parametrize("scheme", [UNSIGNED, SIGNED, IntegerScheme("int4", symmetric=True)])
def test_outliers_are_clipped(method: str, scheme: IntegerScheme) -> None:
    array = normal(outliers=60.0)
    low, high = Calibration(method, percentile=99.9).bounds(seen(array), scheme)
    assert high < 30
    body = array[:, 3:]
    assert error(body, (low, high), scheme) < 0.3 * error(body, (-5, 60), scheme)


@pytest.mark.parametrize("scheme", [UNSIGNED, SIGNED, IntegerScheme("uint4"), IntegerScheme("int4", symmetric=True)])
@pytest.mark.parametrize("shape", ["normal", "relu", "laplace", "outliers"])
def test_the_least_error_is_not_above_that_of_any_other_method(scheme: IntegerScheme, shape: str) -> None:
    array = {
        "normal": normal(),
        "relu": np.maximum(normal(), 0),
        "laplace": RNG.laplace(size=(1, 20_000)).astype(np.float32),
        "outliers": normal(outliers=-40.0),
    }[shape]
    statistics = seen(array)
    errors = {name: error(array, Calibration(name).bounds(statistics, scheme), scheme) for name in METHODS}
    assert errors["mse"] <= 1.02 * min(errors.values()), errors


@pytest.mark.parametrize("method", ["mse", "entropy", "percentile"])
def test_a_range_from_some_numbers_of_large_arrays_is_as_good(method: str) -> None:
    rng = np.random.default_rng(3)
    arrays = [np.maximum(rng.normal(size=(1, 400_000)), 0).astype(np.float32) for _ in range(8)]
    small = [part for array in arrays for part in np.split(array, 40, axis=1)]
    errors = [
        error(arrays[0], Calibration(method).bounds(seen(*parts), UNSIGNED), UNSIGNED) for parts in (arrays, small)
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.4)


def test_a_moving_average_forgets_the_first_samples() -> None:
    arrays = [np.array([[-1.0, scale]], np.float32) for scale in [100.0] + [2.0] * 40]
    low, high = Calibration("moving-average").bounds(seen(*arrays), UNSIGNED)
    assert low == pytest.approx(-1)
    assert 2 < high < 5


def test_a_percentage_is_kept_on_each_side_of_zero() -> None:
    array = np.concatenate([np.linspace(0, 10, 10_001), np.linspace(-1, 0, 10_001)]).astype(np.float32).reshape(1, -1)
    low, high = Calibration("percentile", percentile=90).bounds(seen(array), UNSIGNED)
    assert low == pytest.approx(-0.9, abs=0.02)
    assert high == pytest.approx(9, abs=0.02)


@pytest.mark.parametrize(("name", "percentile", "match"), [("best", 99, "methods are"), ("percentile", 101, "not in")])
def test_what_does_not_exist_is_refused(name: str, percentile: float, match: str) -> None:
    with pytest.raises(InputError, match=match):
        Calibration(name, percentile)
