from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.fusion.fuse_conv_affine import FuseConvAffine
from graphopt.proof.tolerance import Tolerance
from tests.helpers import check_declines, check_pass

RNG = np.random.default_rng(0)
PASS = FuseConvAffine()


def weights(shape=(6, 3, 3, 3), dtype=np.float32, **more):
    given = {"W": RNG.normal(size=shape), "b": RNG.normal(size=6), "k": RNG.uniform(0.5, 2, size=(6, 1, 1))}
    return {name: np.asarray(array, dtype) for name, array in (given | more).items()}


def after(step, conv="Conv(X, W, b)"):
    return f"g (float[N,3,9,7] X) => (float[N,6,H,V] Y) {{ c = {conv}  Y = {step} }}"


@pytest.mark.parametrize(
    "step", ["Mul(c, k)", "Mul(k, c)", "Add(c, k)", "Add(k, c)", "Sub(c, k)", "Sub(k, c)", "Div(c, k)", "Neg(c)"]
)
@pytest.mark.parametrize("conv", ["Conv(X, W)", "Conv <pads = [1, 1, 1, 1]> (X, W, b)"])
def test_a_constant_for_each_channel_behind_a_convolution(step, conv):
    check_pass(PASS, after(step, conv), weights=weights(), ops={"Conv": 1}, counts={"rewritten": 1})


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (1, 6, 1, 1), (1, 1, 1, 1)])
def test_every_form_of_the_constant(shape):
    given = weights(k=RNG.uniform(1, 2, size=shape))
    check_pass(PASS, after("Mul(c, k)"), weights=given, ops={"Conv": 1})
    check_pass(PASS, after("Add(c, k)", "Conv(X, W)"), weights=given, ops={"Conv": 1})


def test_a_scale_alone_makes_no_bias():
    text = "g (float[N,3,9,7] X) => (float[N,6,7,5] Y) { Y = Conv(X, W2) }"
    check_pass(PASS, after("Mul(c, k)", "Conv(X, W)"), text, weights=weights())


def test_several_steps_go_one_after_the_other():
    text = "g (float[N,3,9,7] X) => (float[N,6,7,5] Y) { c = Conv(X, W)  m = Mul(c, k)  a = Add(m, s)  Y = Div(a, d) }"
    given = weights(s=RNG.normal(size=(6, 1, 1)), d=3.0)
    check_pass(PASS, text, weights=given, ops={"Conv": 1}, counts={"rewritten": 3})


def test_groups_and_transposed_convolutions():
    text = after("Mul(c, k)", "ConvTranspose <group = 3> (X, W, b)")
    check_pass(PASS, text, weights=weights((3, 2, 3, 3)), ops={"ConvTranspose": 1})
    text = after("Sub(k, c)", "Conv <group = 3> (X, W, b)")
    check_pass(PASS, text, weights=weights((6, 1, 3, 3)), ops={"Conv": 1})


def test_half_precision():
    text = after("Mul(c, k)").replace("float[", "float16[")
    check_pass(PASS, text, weights=weights(dtype=np.float16), ops={"Conv": 1}, tol=Tolerance.uniform(5e-3))


@pytest.mark.parametrize("step", ["Mul(X, k)", "Add(k, X)", "Sub(X, k)", "Sub(k, X)", "Div(X, k)", "Neg(X)"])
def test_in_front_of_a_convolution_that_pads_nothing(step):
    given = weights((6, 2, 3, 3), k=RNG.uniform(0.5, 2, size=(1, 4, 1, 1)))
    text = f"g (float[N,4,9,7] X) => (float[N,6,7,5] Y) {{ c = {step}  Y = Conv <group = 2> (c, W, b) }}"
    check_pass(PASS, text, weights=given, ops={"Conv": 1})


def test_in_front_of_a_convolution_that_pads_only_a_scale():
    given = weights((6, 4, 3, 3), k=RNG.uniform(0.5, 2, size=(4, 1, 1)))
    text = "g (float[N,4,9,7] X) => (float[N,6,9,7] Y) { c = Mul(X, k)  Y = Conv <pads = [1, 1, 1, 1]> (c, W, b) }"
    check_pass(PASS, text, weights=given, ops={"Conv": 1})
    reason = "a shift before a convolution that pads"
    check_declines(PASS, text.replace("Mul", "Add"), reason, weights=given)
    transposed = "g (float[N,4,9,7] X) => (float[N,6,11,9] Y) { c = Mul(X, k)  Y = ConvTranspose (c, W, b) }"
    given = weights((4, 6, 3, 3), k=RNG.uniform(0.5, 2, size=(4, 1, 1)))
    check_pass(PASS, transposed, weights=given, ops={"ConvTranspose": 1})
    check_declines(PASS, transposed.replace("Mul", "Add"), reason, weights=given)


@pytest.mark.parametrize("shape", [(6,), (5,), (1, 1, 1, 5), (6, 7, 1), (2, 6, 1, 1), (6, 1), (1, 6, 1, 1, 1)])
def test_a_constant_that_is_not_one_number_a_channel(shape):
    # 7 rows by 5 columns come out of the convolution.
    text = "g (float[1,3,9,7] X) => (float Y) { c = Conv <pads = [0, 0, 0, 1]> (X, W, b)  Y = Mul(c, k) }"
    given = weights(k=np.ones(shape))
    if 5 in shape:
        text = text.replace("<pads = [0, 0, 0, 1]> ", "")
    check_declines(PASS, text, "the constant is not one number a channel", weights=given)


def test_a_constant_that_makes_more_channels():
    text = "g (float[N,3,9,7] X) => (float[N,6,7,5] Y) { c = Conv(X, W)  Y = Mul(c, k) }"
    given = weights((1, 3, 3, 3), b=[1.0])
    check_declines(PASS, text, "the constant is not one number a channel", weights=given)


def test_it_declines_what_it_cannot_divide():
    reason = "divided by zero, or a constant is divided by the data"
    check_declines(PASS, after("Div(k, c)"), reason, weights=weights())
    check_declines(PASS, after("Div(c, k)"), reason, weights=weights(k=0.0))


def test_it_declines_other_uses_and_overflow():
    reason = "the convolution's result is used elsewhere too"
    output = after("Mul(c, k)").replace("float[N,6,H,V] Y", "float[N,6,H,V] Y, float[N,6,H,V] c")
    check_declines(PASS, output, reason, weights=weights())
    swish = after("Mul(a, c)").replace("Y =", "a = Add(c, k) Y =")
    check_declines(PASS, swish, reason, weights=weights())
    check_declines(
        PASS, after("Mul(c, k)"), "the folded weights do not fit their float type", weights=weights(k=np.inf)
    )
    reason = "the folded weights do not fit their float type"
    half = after("Mul(c, k)").replace("float[", "float16[")
    tiny = weights(k=6e-8, dtype=np.float16)
    check_declines(PASS, half, reason, weights=tiny)


def test_what_is_no_near_miss():
    check_declines(PASS, "g (float[N,3] X, float[3] b) => (float[N,3] Y) { Y = Mul(X, b) }")
    check_declines(PASS, after("Mul(c, c)"), weights=weights())


def test_a_factor_that_a_captured_convolution_takes_in():
    text = (
        "g (float[N,3,9,7] X, bool B) => (float[N,6,7,5] Y) { "
        "Y = If (B) <then_branch = t () => (float[N,6,7,5] y) { c = Conv(X, W)  y = Mul(c, k) }, "
        "else_branch = e () => (float[N,6,7,5] y) { y = Conv(X, W) }> }"
    )
    check_pass(PASS, text, weights=weights(), inputs={"X": np.ones((1, 3, 9, 7), np.float32), "B": np.array(True)})
