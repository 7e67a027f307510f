import pytest

from graphopt.passes.cleanup.replace_sum import ReplaceSum
from tests.helpers import check_declines, check_pass


@pytest.mark.parametrize("dtype", ["float", "float16", "double"])
def test_a_sum_of_two_is_an_addition(dtype):
    check_pass(
        ReplaceSum(),
        f"g ({dtype}[N,3] X, {dtype}[3] Z) => ({dtype}[N,3] Y) {{ Y = Sum(X, Z) }}",
        f"g ({dtype}[N,3] X, {dtype}[3] Z) => ({dtype}[N,3] Y) {{ Y = Add(X, Z) }}",
        counts={"rewritten": 1},
    )


def test_a_sum_of_one_is_that_value():
    check_pass(
        ReplaceSum(),
        "g (float[N] X) => (float[N] Y) { a = Sum(X)  Y = Relu(a) }",
        "g (float[N] X) => (float[N] Y) { Y = Relu(X) }",
        counts={"rewritten": 1},
    )


def test_a_sum_of_more_stays():
    text = "g (float[N] X, float[N] Z) => (float[N] Y) { Y = Sum(X, Z, X) }"
    check_declines(ReplaceSum(), text, "it has more than two terms")
