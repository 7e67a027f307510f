from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.fusion.fold_bn_into_gemm import FoldBnIntoGemm
from tests.helpers import check_declines, check_pass

RNG = np.random.default_rng(0)
PASS = FoldBnIntoGemm()
NORM = "BatchNormalization({}, gamma, beta, mean, var)"


def weights(channels=5, **more):
    given = {
        "W": RNG.normal(size=(3, 5)),
        "V": RNG.normal(size=(5, 3)),
        "b": RNG.normal(size=5),
        "gamma": RNG.normal(size=channels),
        "beta": RNG.normal(size=channels),
        "mean": RNG.normal(size=channels),
        "var": RNG.uniform(0.1, 2, size=channels),
    }
    return {name: np.asarray(array, np.float32) for name, array in (given | more).items()}


def after(product):
    return f"g (float[N,3] X) => (float[N,5] Y) {{ c = {product}  Y = {NORM.format('c')} }}"


@pytest.mark.parametrize(
    "product",
    [
        "MatMul(X, W)",
        "Gemm(X, W)",
        "Gemm(X, W, b)",
        "Gemm <alpha = 0.5, beta = 2.0, transB = 1> (X, V, b)",
    ],
)
def test_behind_a_product(product):
    check_pass(
        PASS,
        after(product),
        "g (float[N,3] X) => (float[N,5] Y) { Y = Gemm(X, W2, b2) }",
        weights=weights(),
        counts={"rewritten": 1},
    )


def test_behind_a_product_with_a_transposed_first_factor():
    text = after("Gemm <transA = 1> (X, W, b)").replace("float[N,3] X", "float[3,N] X")
    check_pass(PASS, text, "g (float[3,N] X) => (float[N,5] Y) { Y = Gemm <transA = 1> (X, A, c) }", weights=weights())


@pytest.mark.parametrize("product", ["MatMul(n, W)", "Gemm(n, W, b)", "Gemm <alpha = 0.5, transB = 1> (n, V, b)"])
def test_in_front_of_a_product(product):
    text = f"g (float[N,3] X) => (float[N,5] Y) {{ n = {NORM.format('X')}  Y = {product} }}"
    check_pass(PASS, text, weights=weights(3), ops={"Gemm": 1})


def test_near_misses():
    check_declines(
        PASS,
        f"g (float[N,5,3] X) => (float[N,5,5] Y) {{ c = MatMul(X, W)  Y = {NORM.format('c')} }}",
        "the batch-norm's input is not known to be a matrix",
        weights=weights(),
    )
    used = after("MatMul(X, W)").replace("(float[N,5] Y)", "(float[N,5] Y, float[N,5] c)")
    check_declines(PASS, used, "the product's result is used elsewhere too", weights=weights())
    free = after("MatMul(X, W)").replace("float[N,3] X", "float[N,3] X, float[3,5] W")
    check_declines(PASS, free, "the weights of the product are not constant", weights=weights())
    rows = after("Gemm(X, W, r)").replace("N", "4").replace("Batch4orm", "BatchNorm")
    given = weights(r=RNG.normal(size=(4, 1)))
    check_declines(PASS, rows, "the bias of the product differs from row to row", weights=given)
    open_bias = after("Gemm(X, W, b)").replace("float[N,3] X", "float[N,3] X, float[5] b")
    check_declines(PASS, open_bias, "the bias of the product is not constant", weights=weights())
    huge = weights(gamma=np.full(5, 1e38), mean=np.full(5, 100.0))
    check_declines(PASS, after("MatMul(X, W)"), "the folded weights do not fit their float type", weights=huge)
    first = f"g (float[N,3] X) => (float[3,5] Y) {{ n = {NORM.format('X')}  Y = Gemm <transA = 1> (n, Q) }}"
    given = weights(3, Q=RNG.normal(size=(4, 5)))
    check_declines(PASS, first.replace("[N,", "[4,"), "the Gemm transposes its first factor", weights=given)


def test_a_batch_norm_beside_no_product_is_no_near_miss():
    check_declines(
        PASS, f"g (float[N,5] X) => (float[N,5] Y) {{ c = Relu(X)  Y = {NORM.format('c')} }}", weights=weights()
    )
