"""Hard swish and hard sigmoid: they share the clipped line."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.fusion.fuse_hard_sigmoid import FuseHardSigmoid
from graphopt.passes.fusion.fuse_hard_swish import FuseHardSwish
from graphopt.proof.tolerance import Tolerance
from tests.helpers import check_declines, check_pass

SIGNATURE = "g (float[N,5] X) => (float[N,5] Y)"
LINE = "a = Add(X, three)  c = Clip(a, zero, six)  "


def numbers(dtype=np.float32, **more):
    given = {"zero": 0, "one": 1, "three": 3, "six": 6, "half": 0.5, "sixth": 1 / 6, "fifth": 0.2}
    return {name: np.asarray(value, dtype) for name, value in (given | more).items()}


SWISHES = [
    LINE + "d = Div(c, six)  Y = Mul(X, d)",
    LINE + "d = Mul(c, sixth)  Y = Mul(d, X)",
    LINE + "m = Mul(X, c)  Y = Div(m, six)",
    LINE + "m = Mul(X, sixth)  Y = Mul(m, c)",
    "a = Mul(X, sixth)  b = Add(a, half)  c = Clip(b, zero, one)  Y = Mul(X, c)",
    "a = Div(X, six)  b = Add(half, a)  c = Clip(b, zero, one)  Y = Mul(c, X)",
    "c = HardSigmoid <alpha = 0.16666667, beta = 0.5> (X)  Y = Mul(X, c)",
    "c = HardSigmoid <alpha = 0.16666667, beta = 0.5> (X)  Y = Mul(c, X)",
]


@pytest.mark.parametrize("form", SWISHES)
def test_hard_swish_in_every_order(form):
    after = SIGNATURE + " { Y = HardSwish(X) }"
    check_pass(FuseHardSwish(), f"{SIGNATURE} {{ {form} }}", after, weights=numbers(), counts={"rewritten": 1})


def test_hard_swish_of_a_sum():
    text = f"g (float[N,5] W, float[5] b) => (float[N,5] Y) {{ X = Add(W, b)  {SWISHES[0]} }}"
    check_pass(FuseHardSwish(), text, weights=numbers(), ops={"Add": 1, "HardSwish": 1})
    constant = f"g (float[N,5] W) => (float[N,5] Y) {{ X = Add(W, half)  {SWISHES[0]} }}"
    check_pass(FuseHardSwish(), constant, weights=numbers(), ops={"Add": 1, "HardSwish": 1})


def test_hard_swish_in_half_precision():
    text = f"{SIGNATURE} {{ {SWISHES[0]} }}".replace("float[", "float16[")
    check_pass(FuseHardSwish(), text, weights=numbers(np.float16), ops={"HardSwish": 1}, tol=Tolerance.uniform(3e-3))


@pytest.mark.parametrize(
    ("form", "alpha"),
    [
        (LINE + "Y = Div(c, six)", 1 / 6),
        (LINE + "Y = Mul(sixth, c)", 1 / 6),
        ("a = Mul(X, fifth)  b = Add(a, half)  Y = Clip(b, zero, one)", 0.2),
        ("a = Add(X, half)  Y = Clip(a, zero, one)", 1.0),
    ],
)
def test_hard_sigmoid(form, alpha):
    model = check_pass(FuseHardSigmoid(), f"{SIGNATURE} {{ {form} }}", weights=numbers(), ops={"HardSigmoid": 1})
    (node,) = model.graph.nodes
    assert node.attr("alpha") == pytest.approx(alpha)
    assert node.attr("beta") == pytest.approx(0.5)


def test_hard_sigmoid_then_hard_swish():
    middle = check_pass(FuseHardSigmoid(), f"{SIGNATURE} {{ {SWISHES[0]} }}", weights=numbers(), changes=True)
    check_pass(FuseHardSwish(), middle, f"{SIGNATURE} {{ Y = HardSwish(X) }}")


def test_near_misses_of_hard_swish():
    other = SIGNATURE + " { c = HardSigmoid <alpha = 0.2, beta = 0.5> (X)  Y = Mul(X, c) }"
    reason = "the hard sigmoid is not that of hard swish: alpha 1/6, beta 1/2"
    check_declines(FuseHardSwish(), other, reason)
    used = f"g (float[N,5] X) => (float[N,5] Y, float[N,5] a) {{ {SWISHES[0]} }}"
    escapes = "an intermediate result is used elsewhere or is an output"
    check_declines(FuseHardSwish(), used, escapes, weights=numbers())
    double = f"{SIGNATURE} {{ {SWISHES[0]} }}".replace("float[", "double[")
    reason = "double precision: HardSwish holds its factors in float32"
    check_declines(FuseHardSwish(), double, reason, weights=numbers(np.float64))
    old = f'<ir_version: 8, opset_import: ["" : 21]> {SIGNATURE} {{ {SWISHES[0]} }}'
    check_declines(FuseHardSwish(), old, "opset below 22", weights=numbers())


def test_near_misses_of_hard_sigmoid():
    half = "a = Add(X, three)  c = Clip(a, zero, six)  Y = Mul(c, fifth)"
    check_declines(FuseHardSigmoid(), f"{SIGNATURE} {{ {half} }}", weights=numbers())
    five = "a = Add(X, b)  Y = Clip(a, zero, five)"
    given = numbers(b=2.5, five=5.0)
    check_declines(FuseHardSigmoid(), f"{SIGNATURE} {{ {five} }}", "the clipped line does not end at 1", weights=given)
    used = f"g (float[N,5] X) => (float[N,5] Y, float[N,5] a) {{ {LINE} Y = Div(c, six) }}"
    escapes = "an intermediate result is used elsewhere or is an output"
    check_declines(FuseHardSigmoid(), used, escapes, weights=numbers())
    double = f"{SIGNATURE} {{ {LINE} Y = Div(c, six) }}".replace("float[", "double[")
    reason = "double precision: HardSigmoid holds its factors in float32"
    check_declines(FuseHardSigmoid(), double, reason, weights=numbers(np.float64))


@pytest.mark.parametrize(
    "form",
    [
        "Y = Clip(X, zero, six)",
        "a = Add(X, three)  Y = Clip(a, three, six)",
        "a = Add(X, one)  Y = Clip(a, zero, six)",
        "a = Sub(three, X)  Y = Clip(a, zero, six)",
        "a = Mul(X, X)  b = Add(a, half)  Y = Clip(b, zero, one)",
    ],
)
def test_other_clips_are_no_near_miss(form):
    pass_ = FuseHardSwish()
    check_declines(pass_, f"{SIGNATURE} {{ {form} }}", weights=numbers())
    if "Mul" not in form:
        check_declines(FuseHardSigmoid(), f"{SIGNATURE} {{ {form} }}", weights=numbers())
