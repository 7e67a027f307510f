from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.fusion.reassociate_matmul import ReassociateMatmul
from graphopt.proof.tolerance import Tolerance
from tests.helpers import check_declines, check_pass

PASS = ReassociateMatmul()
RNG = np.random.default_rng(0)


def weights(**shapes):
    return {name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_constant_factors_are_multiplied_ahead_of_time():
    text = "g (float[N,S,6] X) => (float[N,S,4] Y) { t = MatMul(X, A)  Y = MatMul(t, B) }"
    after = "g (float[N,S,6] X) => (float[N,S,4] Y) { Y = MatMul(X, W) }"
    check_pass(PASS, text, after, weights=weights(A=(6, 8), B=(8, 4)), counts={"rewritten": 1})


def test_constant_factors_on_the_left():
    text = "g (float[6,N] X) => (float[3,N] Y) { t = MatMul(B, X)  Y = MatMul(A, t) }"
    after = "g (float[6,N] X) => (float[3,N] Y) { Y = MatMul(W, X) }"
    check_pass(PASS, text, after, weights=weights(A=(3, 4), B=(4, 6)))


def test_a_low_rank_pair_stays_apart():
    text = "g (float[N,64] X) => (float[N,64] Y) { t = MatMul(X, A)  Y = MatMul(t, B) }"
    check_declines(PASS, text, "the chain is in its best order", weights=weights(A=(64, 4), B=(4, 64)))


def test_half_precision_is_multiplied_in_double():
    text = "g (float16[N,6] X) => (float16[N,4] Y) { t = MatMul(X, A)  Y = MatMul(t, B) }"
    given = {k: v.astype(np.float16) for k, v in weights(A=(6, 8), B=(8, 4)).items()}
    check_pass(PASS, text, weights=given, ops={"MatMul": 1}, tol=Tolerance.uniform(5e-3))
    huge = {"A": np.full((6, 8), 3e4, np.float16), "B": np.full((8, 4), 3e4, np.float16)}
    check_declines(PASS, text, "the folded weights do not fit their float type", weights=huge)


def test_known_sizes_are_put_in_the_cheapest_order():
    text = "g (float[64,2] P, float[2,64] Q, float[64,2] R) => (float[64,2] Y) { t = MatMul(P, Q)  Y = MatMul(t, R) }"
    after = "g (float[64,2] P, float[2,64] Q, float[64,2] R) => (float[64,2] Y) { t = MatMul(Q, R)  Y = MatMul(P, t) }"
    check_pass(PASS, text, after)
    check_declines(PASS, after, "the chain is in its best order")


def test_a_long_chain():
    names = "ABCDEFGH"
    sizes = [30, 35, 15, 5, 10, 20, 25, 3, 40]
    inputs = ", ".join(f"float[{sizes[i]},{sizes[i + 1]}] {name}" for i, name in enumerate(names))
    steps = "t0 = MatMul(A, B) " + " ".join(f"t{i} = MatMul(t{i - 1}, {names[i + 1]})" for i in range(1, 6))
    text = f"g ({inputs}) => (float[30,40] Y) {{ {steps} Y = MatMul(t5, H) }}"
    check_pass(PASS, text, ops={"MatMul": 7}, tol=Tolerance.uniform(1e-4))


def test_an_unknown_number_of_rows_does_not_matter_where_one_order_always_wins():
    text = "g (float[N,2] P, float[2,64] Q, float[64,2] R) => (float[N,2] Y) { t = MatMul(P, Q)  Y = MatMul(t, R) }"
    # Q @ R costs 256 whatever N is, and saves 252 a row: with one row that would be a loss.
    check_declines(PASS, text, "the chain is in its best order")
    other = "g (float[N,64] P, float[64,2] Q, float[2,64] R) => (float[N,64] Y) { t = MatMul(Q, R)  Y = MatMul(P, t) }"
    after = "g (float[N,64] P, float[64,2] Q, float[2,64] R) => (float[N,64] Y) { t = MatMul(P, Q)  Y = MatMul(t, R) }"
    check_pass(PASS, other, after)


@pytest.mark.parametrize("shape", ["B,9,64", "3,9,64", "9,64"])
def test_one_factor_with_batch_axes(shape):
    text = f"g (float[{shape}] P, float[64,2] Q, float[2,64] R) => (float Y) {{ t = MatMul(Q, R)  Y = MatMul(P, t) }}"
    check_pass(PASS, text.replace("float Y", f"float[{shape}] Y"), ops={"MatMul": 2}, counts={"rewritten": 1})


def test_near_misses():
    given = weights(A=(6, 8), B=(8, 4), C=(6, 6))
    text = "g (float[N,6] X) => (float[N,4] Y) { t = MatMul(X, A)  Y = MatMul(t, B) }"
    used = text.replace("Y) {", "Y, float[N,8] t) {")
    check_declines(PASS, used, "a product in the chain is used elsewhere too", weights=given)
    shared = text.replace("Y) {", "Y, float[8,4] V) { V = Neg(B)")
    check_declines(PASS, shared, "the chain is in its best order", weights=given)
    batches = "g (float[B_,3,6] X, float[B_,6,8] P) => (float[B_,3,4] Y) { t = MatMul(X, P)  Y = MatMul(t, B) }"
    reason = "more than one factor has batch axes or an unknown outer size"
    check_declines(PASS, batches, reason, weights=given)
    inner = "g (float[3,K] X, float[K,L] P, float[L,5] Q) => (float[3,5] Y) { t = MatMul(X, P)  Y = MatMul(t, Q) }"
    check_declines(PASS, inner, "the inner sizes of the factors are not known", weights=given)
    vector = "g (float[6] X) => (float[4] Y) { t = MatMul(X, A)  Y = MatMul(t, B) }"
    check_declines(PASS, vector, "the factors are not known to be matrices", weights=given)
    integers = {name: array.astype(np.int32) for name, array in given.items()}
    check_declines(PASS, text.replace("float", "int32"), "the factors are not known to be floats", weights=integers)


def test_shared_constants_take_part_where_that_needs_no_copy():
    text = "g (float[64,64] P) => (float[64,2] Y, float[64,2] Z) { t = MatMul(P, P)  Y = MatMul(t, B)  Z = Neg(B) }"
    check_pass(PASS, text, ops={"MatMul": 2, "Neg": 1}, weights=weights(B=(64, 2)), tol=Tolerance.uniform(1e-4))


def test_a_single_product_is_no_near_miss():
    check_declines(PASS, "g (float[N,6] X) => (float[N,8] Y) { Y = MatMul(X, A) }", weights=weights(A=(6, 8)))
