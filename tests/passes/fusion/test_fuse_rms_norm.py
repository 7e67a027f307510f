from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.fusion.fuse_rms_norm import FuseRmsNorm
from graphopt.proof.tolerance import Tolerance
from tests.helpers import check_declines, check_pass

PASS = FuseRmsNorm()
RNG = np.random.default_rng(0)
SIGNATURE = "g (float[N,S,6] X) => (float[N,S,6] Y)"
PLAIN = "p = Pow(X, two)  v = ReduceMean(p, axis)  a = Add(v, eps)  r = Sqrt(a)  "


def constants(dtype=np.float32, axis=(-1,), **more):
    given = {"w": RNG.normal(size=6), "eps": 0.001, "two": 2, "one": 1, "minus_half": -0.5, "b": 1}
    arrays = {name: np.asarray(value, dtype) for name, value in (given | more).items()}
    return arrays | {"axis": np.array(axis, np.int64)}


@pytest.mark.parametrize(
    "body",
    [
        PLAIN + "n = Div(X, r)  Y = Mul(n, w)",
        PLAIN + "i = Reciprocal(r)  n = Mul(X, i)  Y = Mul(w, n)",
        PLAIN + "i = Div(one, r)  n = Mul(i, X)  Y = Mul(n, w)",
        PLAIN.replace("Pow(X, two)", "Mul(X, X)") + "n = Div(X, r)  Y = Mul(n, w)",
        PLAIN.replace("r = Sqrt(a)", "r = Pow(a, minus_half)") + "n = Mul(X, r)  Y = Mul(n, w)",
        PLAIN + "i = Reciprocal(r)  s = Mul(i, w)  Y = Mul(X, s)",
    ],
)
def test_every_form(body):
    after = SIGNATURE + " { Y = RMSNormalization <axis = -1, epsilon = 0.001> (X, w) }"
    check_pass(PASS, f"{SIGNATURE} {{ {body} }}", after, weights=constants(), counts={"rewritten": 1})


def test_a_bias_stays():
    text = f"{SIGNATURE} {{ {PLAIN} n = Div(X, r)  s = Mul(n, w)  Y = Add(s, b) }}"
    check_pass(PASS, text, weights=constants(), ops={"RMSNormalization": 1, "Add": 1})


def test_without_a_scale():
    text = f"{SIGNATURE} {{ {PLAIN} Y = Div(X, r) }}"
    check_pass(PASS, text, weights=constants(), ops={"RMSNormalization": 1})


def test_half_precision_that_is_normalized_in_float32():
    body = PLAIN.replace("X", "f") + "i = Reciprocal(r)  n = Mul(f, i)  h = Cast <to = 10> (n)  Y = Mul(w, h)"
    text = f"g (float16[N,S,6] X) => (float16[N,S,6] Y) {{ f = Cast <to = 1> (X)  {body} }}"
    given = constants() | {"w": RNG.normal(size=6).astype(np.float16)}
    check_pass(PASS, text, weights=given, ops={"RMSNormalization": 1}, tol=Tolerance.uniform(5e-3))


def test_the_shortcut_around_it_keeps_the_cast():
    body = PLAIN.replace("X", "f") + "n = Div(f, r)  h = Cast <to = 10> (n)  Y = Mul(w, h)"
    text = f"g (float16[N,S,6] X) => (float16[N,S,6] Y, float[N,S,6] Z) {{ f = Cast <to = 1> (X)  Z = Neg(f)  {body} }}"
    given = constants() | {"w": RNG.normal(size=6).astype(np.float16)}
    check_pass(PASS, text, weights=given, ops={"RMSNormalization": 1, "Cast": 1, "Neg": 1}, tol=Tolerance.uniform(5e-3))


def test_near_misses():
    text = f"{SIGNATURE} {{ {PLAIN} n = Div(X, r)  Y = Mul(n, w) }}"
    check_declines(PASS, text.replace("N,S", "N,6"), "not the last axes are normalized", weights=constants(axis=[1]))
    other = "g (float[N,S,6] X, float[N,S,6] Z) => (float[N,S,6] Y) { " + PLAIN + "Y = Div(Z, r) }"
    check_declines(PASS, other, "the root does not divide what it was computed from", weights=constants())
    old = '<ir_version: 8, opset_import: ["" : 22]> ' + text
    check_declines(PASS, old, "opset below 23", weights=constants())
    double = text.replace("float[", "double[")
    reason = "only float32, float16 and bfloat16 are normalized in at least their own precision"
    check_declines(PASS, double, reason, weights=constants(np.float64))
    used = text.replace("Y) {", "Y, float[N,S,1] v) {")
    check_declines(PASS, used, "an intermediate result is used elsewhere or is an output", weights=constants())
    root = text.replace("Y) {", "Y, float[N,S,1] r) {")
    check_declines(PASS, root, "an intermediate result is used elsewhere or is an output", weights=constants())


def test_layer_normalization_is_not_touched():
    text = (
        f"{SIGNATURE} {{ m = ReduceMean(X, axis)  d = Sub(X, m)  p = Mul(d, d)  v = ReduceMean(p, axis)  "
        "a = Add(v, eps)  r = Sqrt(a)  n = Div(d, r)  Y = Mul(n, w) }"
    )
    check_declines(PASS, text, weights=constants())
