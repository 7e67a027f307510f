"""Scales and zero points: the same integers as ONNX Runtime's QuantizeLinear, and ranges that hold what they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from graphopt import io
from graphopt.compression.scales import IntegerScheme
from graphopt.errors import InputError
from graphopt.proof.oracle import Reference

NUMBERS = np.array(
    [0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 1e-30, 3e38, -3e38, np.inf, -np.inf, 0.1, -7.3, 127.4, 127.5, -128.6, 63.49],
    np.float32,
)
FLOATS = st.floats(-1e6, 1e6, allow_nan=False, width=32)


def in_onnx(array: np.ndarray, scale: np.ndarray, point: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """What ONNX Runtime makes of it: integers, and floats again."""
    weights = [
        numpy_helper.from_array(array, "x"),
        numpy_helper.from_array(scale, "s"),
        numpy_helper.from_array(point, "z"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
        helper.make_node("Cast", ["q"], ["i"], to=6),
    ]
    outputs = [helper.make_tensor_value_info(name, kind, array.shape) for name, kind in (("i", 6), ("y", 1))]
    graph = helper.make_graph(nodes, "g", [], outputs, weights)
    model = io.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    with Reference(model) as reference:
        results = reference.run({})
    return results["i"], results["y"]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int4", "uint4"])
@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, 200.0), (-128.0, 127.0), (-3e38, 3e38), (0.0, 0.0)])
def test_integers_are_those_of_onnx(dtype: str, bounds: tuple[float, float]) -> None:
    scale = IntegerScheme(dtype).fit(*bounds)
    integers, floats = in_onnx(NUMBERS, scale.scale, scale.zero_point, 0)
    np.testing.assert_array_equal(scale.quantize(NUMBERS).astype(np.int32), integers)
    np.testing.assert_array_equal(scale.rounded(NUMBERS), floats)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_channels_have_scales_of_their_own(axis: int) -> None:
    array = np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32)
    rest = tuple(i for i in range(3) if i != axis % 3)
    scale = IntegerScheme("int8").fit(array.min(rest), array.max(rest))
    integers, floats = in_onnx(array, scale.scale, scale.zero_point, axis)
    np.testing.assert_array_equal(scale.quantize(array, axis), integers)
    np.testing.assert_array_equal(scale.rounded(array, axis), floats)


@settings(deadline=None)  # a busy machine
@given(low=FLOATS, high=FLOATS, symmetric=st.booleans(), power=st.booleans(), dtype=st.sampled_from(["int8", "uint8"]))
def test_a_range_is_held(low: float, high: float, symmetric: bool, power: bool, dtype: str) -> None:
    """Both ends are off by less than a step; zero is exact."""
    low, high = min(low, high), max(low, high)
    scale = IntegerScheme(dtype, symmetric, power).fit(low, high)
    ends = np.array([low, high, 0], np.float32)
    left = scale.rounded(ends)
    assert left[2] == 0
    assert np.all(np.abs(left - ends) <= scale.scale * 1.0001)
    assert not power or np.log2(scale.scale) == np.rint(np.log2(scale.scale))
    assert not symmetric or scale.zero_point == (0 if dtype == "int8" else 128)


def test_a_symmetric_signed_range_leaves_out_the_lowest_number() -> None:
    scale = IntegerScheme("int8", symmetric=True).fit(-2.0, 1.0)
    assert scale.quantize(np.array([-2, -99, 2], np.float32)).tolist() == [-127, -127, 127]


def test_ranges_of_nothing_but_zeros() -> None:
    scale = IntegerScheme().fit(np.array([0.0, -1.0]), np.array([0.0, 1.0]))
    assert scale.scale.tolist() == [1.0, np.float32(2 / 255)]


def test_ranges_must_be_finite() -> None:
    with pytest.raises(InputError, match="not finite"):
        IntegerScheme().fit(0.0, np.inf)


def test_nan_becomes_the_zero_point() -> None:
    scale = IntegerScheme("uint8").fit(-1, 1)
    assert scale.quantize(np.array([np.nan], np.float32)) == scale.zero_point


def test_a_type_that_is_no_integer_is_refused() -> None:
    with pytest.raises(InputError, match="cannot quantize to 'float16'"):
        IntegerScheme("float16")
