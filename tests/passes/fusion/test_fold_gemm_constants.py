from __future__ import annotations

import ml_dtypes
import numpy as np

from graphopt.passes.fusion.fold_gemm_constants import FoldGemmConstants
from graphopt.rewriting.passes import PassContext
from tests.helpers import check_declines, check_pass, model_of

PASS = FoldGemmConstants()
RNG = np.random.default_rng(0)


def weights(dtype=np.float32, **more):
    given = {"W": RNG.normal(size=(4, 3)), "V": RNG.normal(size=(3, 4)), "b": RNG.normal(size=4)}
    return {name: np.asarray(array, dtype) for name, array in (given | more).items()}


def text(gemm):
    return f"g (float[N,3] X) => (float[N,4] Y) {{ Y = {gemm} }}"


def test_factors_and_transposition_go_into_the_constants():
    check_pass(PASS, text("Gemm <transB = 1> (X, W)"), text("Gemm (X, A)"), weights=weights())
    check_pass(PASS, text("Gemm <alpha = 0.3> (X, V)"), text("Gemm (X, A)"), weights=weights())
    gemm = "Gemm <alpha = 0.3, beta = 1.7, transB = 1> (X, W, b)"
    check_pass(PASS, text(gemm), text("Gemm (X, A, c)"), weights=weights())


def test_what_is_not_constant_keeps_its_factor():
    given = "g (float[N,3] X, float[4] c) => (float[N,4] Y) { Y = Gemm <alpha = 0.3, beta = 1.7> (X, V, c) }"
    after = "g (float[N,3] X, float[4] c) => (float[N,4] Y) { Y = Gemm <beta = 1.7> (X, A, c) }"
    check_pass(PASS, given, after, weights=weights())
    given = "g (float[N,3] X, float[3,4] A) => (float[N,4] Y) { Y = Gemm <alpha = 0.3, beta = 1.7> (X, A, b) }"
    after = "g (float[N,3] X, float[3,4] A) => (float[N,4] Y) { Y = Gemm <alpha = 0.3> (X, A, c) }"
    check_pass(PASS, given, after, weights=weights())


def test_transposing_alone_rounds_nothing():
    given = weights(ml_dtypes.bfloat16)
    model = model_of(text("Gemm <transB = 1> (X, W)").replace("float[", "bfloat16["), given)
    PASS.run(model.graph, PassContext(model))
    (node,) = model.graph.nodes
    assert np.array_equal(node.inputs[1].constant.numpy(), given["W"].T)


def test_shared_weights_are_not_copied():
    shared = (
        "g (float[N,3] X, float[N,4] Z) => (float[N,4] Y, float[N,3] V_) { "
        "Y = Gemm <transB = 1> (X, W)  V_ = MatMul(Z, W) }"
    )
    check_declines(PASS, shared, "the weights are used elsewhere too", weights=weights())


def test_near_misses():
    nothing = "neither the weights nor the bias to be scaled are constant"
    free = "g (float[N,3] X, float[4,3] W) => (float[N,4] Y) { Y = Gemm <transB = 1> (X, W) }"
    check_declines(PASS, free, nothing)
    big = text("Gemm <alpha = 1e30> (X, V)")
    reason = "the folded weights do not fit their float type"
    check_declines(PASS, big, reason, weights=weights(V=np.full((3, 4), 1e30)))


def test_a_plain_gemm_is_no_near_miss():
    check_declines(PASS, text("Gemm (X, V, b)"), weights=weights())
    check_declines(PASS, text("Gemm <beta = 0.5> (X, V)"), weights=weights())
