import numpy as np
import pytest

from graphopt.passes.cleanup.gather_first import GatherFirst
from tests.helpers import check_declines, check_pass

PASS = GatherFirst()
RNG = np.random.default_rng(0)
WEIGHTS = {
    "W": RNG.integers(-128, 127, (50, 4), np.int8),
    "rows": RNG.normal(size=(50, 1)).astype(np.float32),
    "columns": np.array([0.5, -0.0, np.inf, np.nan], np.float32),
    "scale": np.float32(0.25),
}
INPUTS = {"I": np.array([[0, 49, -1], [7, 7, -50]], np.int64)}


def test_the_rows_of_an_int8_table_with_a_scale_each():
    check_pass(
        PASS,
        "g (int64[N,M] I) => (float[N,M,4] Y) { f = Cast<to=1>(W) t = Mul(f, rows) Y = Gather(t, I) }",
        """g (int64[N,M] I) => (float[N,M,4] Y) {
            w = Gather(W, I) f = Cast<to=1>(w) s = Gather(rows, I) Y = Mul(f, s)
        }""",
        weights=WEIGHTS,
        inputs=INPUTS,
    )


@pytest.mark.parametrize("operand", ["columns", "scale"])
def test_what_all_rows_share_is_not_looked_up(operand):
    check_pass(
        PASS,
        f"g (int64[N,M] I) => (float[N,M,4] Y) {{ f = Cast<to=1>(W) t = Sub({operand}, f) Y = Gather(t, I) }}",
        f"g (int64[N,M] I) => (float[N,M,4] Y) {{ w = Gather(W, I) f = Cast<to=1>(w) Y = Sub({operand}, f) }}",
        weights=WEIGHTS,
        inputs=INPUTS,
    )


def test_a_row_that_all_share():
    check_pass(
        PASS,
        "g (int64[N] I) => (float[N,4] Y) { f = Cast<to=1>(W) t = Add(f, one) Y = Gather<axis=-2>(t, I) }",
        "g (int64[N] I) => (float[N,4] Y) { w = Gather(W, I) f = Cast<to=1>(w) Y = Add(f, one) }",
        weights={**WEIGHTS, "one": np.ones((1, 4), np.float32)},
        inputs={"I": np.array([3, 49], np.int64)},
    )


@pytest.mark.parametrize(
    ("signature", "body", "reason"),
    [
        ("(int64[N] I, float[50,4] X) => (float[N,4] Y)", "t = Mul(X, scale) Y = Gather(t, I)", ""),
        ("(int64[N] I) => (float[50,N] Y)", "t = Cast<to=1>(W) Y = Gather<axis=1>(t, I)", ""),
        ("(int64[N] I) => (int8[N,4] Y)", "Y = Gather(W, I)", ""),
        (
            "(int64[N] I) => (float[N,4] Y, float Z)",
            "t = Cast<to=1>(W) Y = Gather(t, I) Z = ReduceMax<keepdims=0>(t)",
            "the table is used elsewhere too",
        ),
        (
            "(int64 I) => (float[4] Y)",
            "t = Cast<to=1>(W) Y = Gather(t, I)",
            "the rank of the indices is not known, or they are a single index",
        ),
    ],
)
def test_other_look_ups_stay(signature, body, reason):
    check_declines(PASS, f"g {signature} {{ {body} }}", reason, weights=WEIGHTS)


def test_a_table_of_one_row_stays():
    check_declines(
        PASS,
        "g (int64[N] I) => (float[N,4] Y) { t = Cast<to=1>(V) Y = Gather(t, I) }",
        weights={"V": np.ones((1, 4), np.int8)},
    )


def test_a_table_that_is_given_out_stays():
    check_declines(
        PASS,
        "g (int64[N] I) => (float[N,4] Y, float[50,4] t) { t = Cast<to=1>(W) Y = Gather(t, I) }",
        "the table is used elsewhere too",
        weights=WEIGHTS,
    )


def test_any_elementwise_operator_whose_bits_do_not_depend_on_the_place():
    check_pass(
        PASS,
        "g (int64[N] I) => (float[N,4] Y) { f = Cast<to=1>(W) a = Abs(f) t = Clip(a, low, high) Y = Gather(t, I) }",
        "g (int64[N] I) => (float[N,4] Y) { w = Gather(W, I) f = Cast<to=1>(w) a = Abs(f) Y = Clip(a, low, high) }",
        weights={**WEIGHTS, "low": np.float32(1), "high": np.float32(9)},
        inputs={"I": np.array([3, 49], np.int64)},
    )
    text = "g (int64[N] I) => (float[N,4] Y) { f = Cast<to=1>(W) t = Sin(f) Y = Gather(t, I) }"
    check_declines(PASS, text, weights=WEIGHTS)
