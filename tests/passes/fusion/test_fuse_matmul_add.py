from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.fusion.fuse_matmul_add import FuseMatmulAdd
from graphopt.proof.tolerance import Tolerance
from tests.helpers import check_declines, check_pass

PASS = FuseMatmulAdd()
RNG = np.random.default_rng(0)


def weights(dtype=np.float32, **more):
    given = {"W": RNG.normal(size=(3, 4)), "b": RNG.normal(size=4), "c": RNG.normal(size=4)}
    return {name: np.asarray(array, dtype) for name, array in (given | more).items()}


@pytest.mark.parametrize("add", ["Add(t, b)", "Add(b, t)"])
def test_a_product_and_its_bias(add):
    check_pass(
        PASS,
        f"g (float[N,3] X) => (float[N,4] Y) {{ t = MatMul(X, W)  Y = {add} }}",
        "g (float[N,3] X) => (float[N,4] Y) { Y = Gemm(X, W, b) }",
        weights=weights(),
        counts={"rewritten": 1},
    )


@pytest.mark.parametrize("shape", [(), (1,), (1, 4), (1, 1)])
def test_every_form_of_the_bias(shape):
    text = "g (float[N,3] X) => (float[N,4] Y) { t = MatMul(X, W)  Y = Add(t, b) }"
    check_pass(PASS, text, weights=weights(b=np.ones(shape)), ops={"Gemm": 1})


def test_what_is_added_need_not_be_constant():
    text = "g (float[N,3] X, float[3,4] V, float[N,4] Z) => (float[N,4] Y) { t = MatMul(X, V)  Y = Add(Z, t) }"
    check_pass(PASS, text, "g (float[N,3] X, float[3,4] V, float[N,4] Z) => (float[N,4] Y) { Y = Gemm(X, V, Z) }")


def test_gemm_without_a_bias_keeps_its_attributes():
    text = "g (float[3,N] X) => (float[N,4] Y) { t = Gemm <transA = 1, alpha = 0.5, beta = 3.0> (X, W)  Y = Add(t, b) }"
    after = "g (float[3,N] X) => (float[N,4] Y) { Y = Gemm <transA = 1, alpha = 0.5> (X, W, b) }"
    check_pass(PASS, text, after, weights=weights())


@pytest.mark.parametrize("shape", [(), (4,), (1, 4), (1,)])
def test_a_second_bias_joins_the_first(shape):
    text = "g (float[N,3] X) => (float[N,4] Y) { t = Gemm <beta = 2.0> (X, W, b)  Y = Add(t, c) }"
    after = "g (float[N,3] X) => (float[N,4] Y) { Y = Gemm(X, W, s) }"
    check_pass(PASS, text, after, weights=weights(c=np.ones(shape)))


def test_half_and_double_precision():
    for name, dtype, allowed in (("float16", np.float16, 2e-3), ("double", np.float64, 1e-12)):
        text = f"g ({name}[N,3] X) => ({name}[N,4] Y) {{ t = MatMul(X, W)  Y = Add(t, b) }}"
        check_pass(PASS, text, weights=weights(dtype), ops={"Gemm": 1}, tol=Tolerance.uniform(allowed))


def test_products_with_more_axes_stay():
    text = "g (float[N,5,3] X) => (float[N,5,4] Y) { t = MatMul(X, W)  Y = Add(t, b) }"
    check_declines(PASS, text, "the product is not one of two matrices", weights=weights())
    vector = "g (float[3] X) => (float[4] Y) { t = MatMul(X, W)  Y = Add(t, b) }"
    check_declines(PASS, vector, "the product is not one of two matrices", weights=weights())


def test_sums_that_broadcast_the_product():
    reason = "the bias is not known to fit the product's shape"
    text = "g (float[N,3] X) => (float[2,N,4] Y) { t = MatMul(X, W)  Y = Add(t, b) }"
    check_declines(PASS, text, reason, weights=weights(b=np.ones((2, 1, 4))))
    rows = "g (float[1,3] X) => (float[7,4] Y) { t = MatMul(X, W)  Y = Add(t, b) }"
    check_declines(PASS, rows, reason, weights=weights(b=np.ones((7, 4))))
    unknown = "g (float[N,3] X, float[M,4] Z) => (float[K,4] Y) { t = MatMul(X, W)  Y = Add(t, Z) }"
    check_declines(PASS, unknown, reason, weights=weights())
    columns = "g (float[N,3] X) => (float[N,4] Y) { t = MatMul(X, W)  Y = Add(t, b) }"
    check_declines(PASS, columns, reason, weights=weights(W=np.ones((3, 1))))


def test_other_near_misses():
    text = "g (float[N,3] X) => (float[N,4] Y) { t = MatMul(X, W)  Y = Add(t, b) }"
    used = text.replace("Y) {", "Y, float[N,4] t) {")
    check_declines(PASS, used, "the product is used elsewhere too", weights=weights())
    given = {name: array.astype(np.int32) for name, array in weights().items()}
    check_declines(PASS, text.replace("float", "int32"), "integers", weights=given)
    second = "g (float[N,3] X, float[N,4] Z) => (float[N,4] Y) { t = Gemm (X, W, Z)  Y = Add(t, b) }"
    check_declines(PASS, second, "the Gemm has a bias already", weights=weights())
    column = "g (float[4,3] X) => (float[4,4] Y) { t = Gemm (X, W, r)  Y = Add(t, b) }"
    check_declines(PASS, column, "the two biases together are larger than each", weights=weights(r=np.ones((4, 1))))
    unranked = "g (float[N,3] X, int64[R] s) => (float Y) { Z = Reshape(X, s)  t = MatMul(Z, W)  Y = Add(t, b) }"
    check_declines(PASS, unranked, "the rank of a factor is not known", weights=weights())


def test_sums_without_a_product_are_no_near_miss():
    check_declines(PASS, "g (float[N,4] X) => (float[N,4] Y) { Y = Add(X, b) }", weights=weights())
