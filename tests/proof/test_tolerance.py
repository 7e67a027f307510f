from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from graphopt.errors import VerificationError
from graphopt.ir import DType, infer_shapes
from graphopt.proof.numerical import usual_tolerance
from graphopt.proof.tolerance import EXACT, Tolerance, compare
from tests.helpers import model_of


def f32(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def test_error_is_relative_to_the_largest_expected_value() -> None:
    comparison = compare({"y": f32(10, 0.001)}, {"y": f32(10, 0.0015)})
    assert comparison.ok
    assert comparison.error == pytest.approx(5e-5, rel=1e-3)


def test_the_default_for_float32_can_fail() -> None:
    comparison = compare({"y": f32(10, 1)}, {"y": f32(10, 1.002)})
    assert not comparison.ok
    assert comparison.worst.index == (1,)
    assert "output 'y'[1]: relative error 0.0002, allowed 0.0001" in str(comparison)


@pytest.mark.parametrize(
    ("dtype", "passing", "failing"),
    [
        (np.float64, 5e-8, 1e-6),
        (np.float32, 5e-5, 1e-3),
        (np.float16, 4e-3, 3e-2),
        (ml_dtypes.bfloat16, 2e-2, 1e-1),
    ],
)
def test_defaults_are_keyed_by_dtype(dtype: type, passing: float, failing: float) -> None:
    one = np.ones(3, dtype)
    assert compare({"y": one}, {"y": (np.ones(3) + passing).astype(dtype)}).ok
    assert not compare({"y": one}, {"y": (np.ones(3) + failing).astype(dtype)}).ok


def test_dtypes_and_shapes_must_be_equal() -> None:
    assert "dtype is float64" in str(compare({"y": f32(1)}, {"y": np.ones(1)}).worst)
    assert "shape is [1, 1], expected [1]" in str(compare({"y": f32(1)}, {"y": np.ones((1, 1), np.float32)}).worst)


def test_a_missing_and_a_new_output_are_differences() -> None:
    comparison = compare({"a": f32(1)}, {"b": f32(1)})
    assert [str(d) for d in comparison.differences] == ["output 'a': is missing", "output 'b': is new"]


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_a_strange_number_where_there_was_none_is_an_error(strange: float) -> None:
    for tolerance in (Tolerance(), Tolerance.uniform(0.9), EXACT):
        comparison = compare({"y": f32(1, 2)}, {"y": f32(1, strange)}, tolerance)
        assert not comparison.ok
        assert comparison.error == np.inf
        assert comparison.worst.index == (1,)
        assert not compare({"y": f32(1, strange)}, {"y": f32(1, 2)}, tolerance).ok


def test_equal_strange_numbers_are_equal() -> None:
    odd = f32(1, np.nan, np.inf, -np.inf)
    assert compare({"y": odd}, {"y": odd.copy()}).ok
    assert compare({"y": odd}, {"y": odd.copy()}, EXACT).ok
    assert not compare({"y": f32(1, np.inf)}, {"y": f32(1, -np.inf)}).ok


def test_nothing_compared_is_an_error() -> None:
    with pytest.raises(VerificationError, match="nothing was compared"):
        compare({}, {})
    with pytest.raises(VerificationError, match="nothing was compared"):
        compare({"y": np.zeros((0, 3), np.float32)}, {"y": np.zeros((0, 3), np.float32)})


def test_exact_tells_the_signs_of_zero_and_ignores_the_payloads_of_nan() -> None:
    assert not compare({"y": f32(0.0)}, {"y": f32(-0.0)}, EXACT).ok
    assert compare({"y": f32(0.0)}, {"y": f32(-0.0)}).ok
    payloads = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert compare({"y": payloads[:1]}, {"y": payloads[1:]}, EXACT).ok
    assert not compare({"y": f32(1)}, {"y": np.nextafter(f32(1), f32(2))}, EXACT).ok


def test_integers_are_exact_unless_declared() -> None:
    big = np.array([2**62, 5])
    assert not compare({"y": big}, {"y": big + np.array([1, 0])}).ok
    assert not compare({"y": np.uint8([200])}, {"y": np.uint8([199])}).ok
    assert compare({"y": np.uint8([200])}, {"y": np.uint8([199])}, Tolerance(outputs={"y": 0.01})).ok
    assert not compare({"y": np.uint8([200])}, {"y": np.uint8([190])}, Tolerance(outputs={"y": 0.01})).ok
    assert not compare({"y": np.array([True])}, {"y": np.array([False])}).ok


def test_a_declared_error_holds_for_its_output_only() -> None:
    tolerance = Tolerance(outputs={"loose": 0.1})
    assert compare({"loose": f32(1)}, {"loose": f32(1.05)}, tolerance).ok
    assert not compare({"tight": f32(1)}, {"tight": f32(1.05)}, tolerance).ok


def test_errors_are_not_hidden_by_the_fill_of_a_mask() -> None:
    lowest = float(np.finfo(np.float32).min)
    assert not compare({"y": f32(1, 2, lowest)}, {"y": f32(1.1, 2, lowest)}).ok
    assert compare({"y": f32(1, 2, lowest)}, {"y": f32(1, 2, lowest)}).ok
    assert not compare({"y": f32(1, 2, lowest)}, {"y": f32(1, 2, lowest / 2)}).ok


def test_zeros_have_no_scale_of_their_own() -> None:
    assert compare({"y": f32(0, 0)}, {"y": f32(0, 1e-6)}).ok
    assert not compare({"y": f32(0, 0)}, {"y": f32(0, 0.01)}).ok


def test_sequences_optionals_and_strings() -> None:
    assert compare({"s": [f32(1), f32(2)]}, {"s": [f32(1), f32(2)]}).ok
    assert str(compare({"s": [f32(1), f32(2)]}, {"s": [f32(1), f32(3)]}).worst).startswith("output 's[1]'[0]")
    assert not compare({"s": [f32(1)]}, {"s": [f32(1), f32(2)]}).ok
    assert compare({"o": None}, {"o": None}).ok
    assert not compare({"o": None}, {"o": f32(1)}).ok
    words = np.array(["a", "b"], object)
    assert compare({"w": words}, {"w": words.copy()}).ok
    assert not compare({"w": words}, {"w": np.array(["a", "c"], object)}).ok


@pytest.mark.parametrize("allowed", [-0.1, 1.0, float("nan"), float("inf")])
def test_a_tolerance_that_accepts_anything_is_refused(allowed: float) -> None:
    with pytest.raises(ValueError, match="would accept anything"):
        Tolerance({DType.FLOAT: allowed})


def test_the_worst_output_is_judged_by_what_it_is_allowed() -> None:
    tolerance = Tolerance(outputs={"loose": 0.5})
    comparison = compare({"loose": f32(1), "y": f32(1)}, {"loose": f32(1.1), "y": f32(1.001)}, tolerance)
    assert comparison.worst.name == "y"


def test_float32_outputs_of_a_model_that_computes_in_float16_have_its_tolerance() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[4] X) => (float[4] Y) {
        a = Cast<to=10>(X)  b = Neg(a)  Y = Cast<to=1>(b) }"""
    model = model_of(text)
    infer_shapes(model)
    assert usual_tolerance(model).allowed("Y", DType.FLOAT) == Tolerance().allowed("Y", DType.FLOAT16)
    plain = model_of(text.replace("Cast<to=10>(X)", "Identity(X)"))
    infer_shapes(plain)
    assert usual_tolerance(plain) == Tolerance()
