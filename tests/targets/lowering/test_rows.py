"""Cumulative sums and the k best elements by generated kernels: odd and open sizes, any axis, ties, NaN."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.targets.tvm.lowering.lower import lower
from tests.helpers import model_of
from tests.targets.lowering.support import MACHINE, check_for_machine, noise, run_for_machine

FLAGS = [(0, 0), (0, 1), (1, 0), (1, 1)]
TYPES = {"float32": "float", "float64": "double", "int32": "int32", "int64": "int64"}


@pytest.mark.parametrize(("exclusive", "reverse"), FLAGS)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((5, 7), 1), ((4, 300), -1), ((33,), 0), ((1, 1), 0), ((9, 1), 1), ((6, 13), 0), ((2, 5, 531), 1), ((3, 2, 0), 1)],
)
def test_cumulative_sums(shape: tuple[int, ...], axis: int, exclusive: int, reverse: int) -> None:
    sizes = ", ".join(map(str, shape))
    text = f"""g (float[{sizes}] x) => (float[{sizes}] y) <int64 a = {{{axis}}}>
        {{ y = CumSum <exclusive = {exclusive}, reverse = {reverse}> (x, a) }}"""
    check_for_machine(text, {"x": noise(*shape)}, tolerance=0)


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64"])
@pytest.mark.parametrize("axis", [0, 2])
def test_cumulative_sums_of_other_types(dtype: str, axis: int) -> None:
    kind = TYPES[dtype]
    text = f"g ({kind}[3, 5, 7] x) => ({kind}[3, 5, 7] y) <int64 a = {{{axis}}}> {{ y = CumSum(x, a) }}"
    check_for_machine(text, {"x": noise(3, 5, 7, dtype=dtype)}, tolerance=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cumulative_sums_of_open_sizes(axis: int) -> None:
    text = f"g (float[A, B, C] x) => (float[A, B, C] y) <int64 a = {{{axis}}}> {{ n = Neg(x)  y = CumSum(n, a) }}"
    shapes = [(1, 1, 1), (5, 6, 7), (2, 3, 600), (9, 2, 1)]
    check_for_machine(text, *({"x": noise(*shape)} for shape in shapes), tolerance=0)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize(
    ("shape", "axis", "k"),
    [((3, 5), 1, 3), ((2, 200), -1, 1), ((7, 100), 1, 40), ((4, 97), 1, 97), ((90, 6), 0, 5), ((2, 50, 3), 1, 7)],
)
def test_the_k_best(shape: tuple[int, ...], axis: int, k: int, largest: int) -> None:
    sizes, result = (", ".join(str(s) for s in sizes) for sizes in (shape, _with(shape, axis, k)))
    text = f"""g (float[{sizes}] x) => (float[{result}] v, int64[{result}] i) <int64[1] k = {{{k}}}>
        {{ v, i = TopK <largest = {largest}, axis = {axis}> (x, k) }}"""
    equals = noise(*shape, dtype="int32").astype(np.float32)  # many of them equal
    rising = np.sort(noise(*shape), axis=axis)
    check_for_machine(text, {"x": noise(*shape)}, {"x": equals}, {"x": rising}, {"x": -rising}, tolerance=0)


def _with(shape: tuple[int, ...], axis: int, k: int) -> list[int]:
    sizes = list(shape)
    sizes[axis] = k
    return sizes


@pytest.mark.parametrize("largest", [0, 1])
def test_the_k_best_with_zeros_of_both_signs_and_infinities(largest: int) -> None:
    x = np.array([[0.0, -0.0, np.inf, -np.inf, 1, -0.0, np.inf, 0.0, -np.inf] * 5], np.float32)
    text = f"""g (float[1, 45] x) => (float[1, 40] v, int64[1, 40] i) <int64[1] k = {{40}}>
        {{ v, i = TopK <largest = {largest}> (x, k) }}"""
    check_for_machine(text, {"x": x}, tolerance=0)


@pytest.mark.parametrize(("largest", "want"), [(1, [1, 4, 2, 0]), (0, [3, 5, 0, 2])])
def test_not_a_number_counts_as_the_largest(largest: int, want: list[int]) -> None:
    """As numpy sorts; ONNX Runtime's order of NaN is not defined."""
    text = f"""g (float[1, 6] x) => (float[1, 4] v, int64[1, 4] i) <int64[1] k = {{4}}>
        {{ v, i = TopK <largest = {largest}> (x, k) }}"""
    x = np.array([[1, np.nan, 2, -1, np.nan, 0]], np.float32)
    (outputs,) = run_for_machine(text, {"x": x})
    np.testing.assert_array_equal(outputs[1], [want])
    np.testing.assert_array_equal(outputs[0], x[:, want])


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64"])
def test_the_k_best_of_other_types(dtype: str) -> None:
    kind = TYPES[dtype]
    text = f"""g ({kind}[4, 77] x) => ({kind}[4, 9] v, int64[4, 9] i) <int64[1] k = {{9}}> {{ v, i = TopK(x, k) }}"""
    check_for_machine(text, {"x": noise(4, 77, dtype=dtype)}, tolerance=0)


def test_the_k_best_of_open_sizes() -> None:
    text = "g (float[A, B] x, int64[1] k) => (float[A, K] v, int64[A, K] i) { v, i = TopK(x, k) }"
    sizes = [((1, 1), 1), ((3, 70), 5), ((2, 9), 9), ((2, 9), 0)]
    check_for_machine(text, *({"x": noise(*s), "k": np.array([k])} for s, k in sizes), tolerance=0)


def test_more_than_there_are_is_refused() -> None:
    text = "g (float[A, B] x, int64[1] k) => (float[A, K] v, int64[A, K] i) { v, i = TopK(x, k) }"
    with pytest.raises(Exception, match="match_cast error"):
        run_for_machine(text, {"x": noise(2, 4), "k": np.array([5])})
    fixed = "g (float[2, 4] x) => (float[2, 5] v, int64[2, 5] i) <int64[1] k = {5}> { v, i = TopK(x, k) }"
    with pytest.raises(Exception, match="the first 5 of 4 elements"):
        lower(model_of(fixed, {}), MACHINE)
