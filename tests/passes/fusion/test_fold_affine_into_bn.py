from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.fusion.fold_affine_into_bn import FoldAffineIntoBn
from graphopt.proof.tolerance import Tolerance
from tests.helpers import check_declines, check_pass

PASS = FoldAffineIntoBn()
RNG = np.random.default_rng(0)
NORM = "n = BatchNormalization(X, gamma, beta, mean, var)  "


def weights(dtype=np.float32, **more):
    given = {name: RNG.normal(size=4) for name in ("gamma", "beta", "mean")}
    given |= {"var": RNG.uniform(0.5, 2, size=4), "k": RNG.uniform(0.5, 2, size=(4, 1, 1)), "c": 1.5}
    return {name: np.asarray(array, dtype) for name, array in (given | more).items()}


def text(step):
    return f"g (float[N,4,5,3] X) => (float[N,4,5,3] Y) {{ {NORM}{step} }}"


@pytest.mark.parametrize(
    "step", ["Mul(n, k)", "Mul(c, n)", "Add(n, k)", "Sub(n, k)", "Sub(k, n)", "Div(n, c)", "Neg(n)"]
)
def test_one_step(step):
    after = "g (float[N,4,5,3] X) => (float[N,4,5,3] Y) { Y = BatchNormalization(X, g2, b2, mean, var) }"
    check_pass(PASS, text(f"Y = {step}"), after, weights=weights(), counts={"rewritten": 1})


def test_a_scale_and_a_shift():
    check_pass(PASS, text("m = Mul(n, k)  Y = Add(c, m)"), weights=weights(), ops={"BatchNormalization": 1})


def test_half_precision():
    half = text("m = Mul(n, k)  Y = Add(c, m)").replace("float[", "float16[")
    ops = {"BatchNormalization": 1}
    check_pass(PASS, half, weights=weights(np.float16), ops=ops, tol=Tolerance.uniform(5e-3))


def test_near_misses():
    step = text("Y = Mul(n, k)")
    used = step.replace("3] Y)", "3] Y, float[N,4,5,3] n)")
    check_declines(PASS, used, "the batch-norm's result is used elsewhere too", weights=weights())
    rows = weights(k=np.ones((5, 1)))
    check_declines(PASS, step, "the constant is not one number a channel", weights=rows)
    free = step.replace("3] X", "3] X, float[4] gamma")
    reason = "scale and shift of the batch-norm are not constant, or its rank is not known"
    check_declines(PASS, free, reason, weights=weights())
    variance = step.replace("3] X", "3] X, float[4] var")
    check_declines(PASS, variance, "a parameter of the batch-norm is not constant", weights=weights())
    huge = weights(k=np.full((4, 1, 1), np.inf))
    check_declines(PASS, step, "the folded weights do not fit their float type", weights=huge)


def test_what_is_not_constant_is_no_near_miss():
    check_declines(PASS, text("Y = Mul(n, X)"), weights=weights())
    check_declines(PASS, text("Y = Mul(n, n)"), weights=weights())


def text_before(step):
    norm = "Y = BatchNormalization(n, gamma, beta, mean, var)"
    return f"g (float[N,4,5,3] X) => (float[N,4,5,3] Y) {{ n = {step}  {norm} }}"


@pytest.mark.parametrize(
    "step", ["Mul(X, k)", "Mul(c, X)", "Add(X, k)", "Sub(X, k)", "Sub(k, X)", "Div(X, c)", "Neg(X)", "Mul(X, z)"]
)
def test_one_step_before(step):
    before = text_before(step)
    after = "g (float[N,4,5,3] X) => (float[N,4,5,3] Y) { Y = BatchNormalization(X, g2, b2, m2, var) }"
    check_pass(PASS, before, after, weights=weights(z=0.0), counts={"rewritten": 1})


def test_near_misses_before():
    before = text_before("Mul(X, k)")
    used = before.replace("3] Y)", "3] Y, float[N,4,5,3] n)")
    check_declines(PASS, used, "what the batch-norm reads is used elsewhere too", weights=weights())
    rows = weights(k=np.ones((5, 1)))
    check_declines(PASS, before, "the constant is not one number a channel", weights=rows)
    check_declines(PASS, before.replace("3] X", "3] X, float[4] gamma"), weights=weights())
    grown = before.replace("float[N,4,5,3] X", "float[5,3] X").replace("(X, k)", "(X, w)")
    check_declines(PASS, grown, weights=weights(w=np.ones((2, 4, 1, 1))))


def test_statistics_of_another_type_than_the_scale_stay():
    half = text_before("Mul(X, k)").replace("float[", "float16[")
    single = {name: weights()[name] for name in ("mean", "var")}
    reason = "the parameters of the batch-norm have another type"
    check_declines(PASS, half, reason, weights={**weights(np.float16), **single})
