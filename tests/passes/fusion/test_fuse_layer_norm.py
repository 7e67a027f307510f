from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from graphopt.passes.fusion.fuse_layer_norm import FuseLayerNorm
from graphopt.proof.tolerance import Tolerance
from graphopt.rewriting.passes import PassContext
from tests.helpers import check_declines, check_pass, model_of, ops

PASS = FuseLayerNorm()
RNG = np.random.default_rng(0)
SIGNATURE = "g (float[N,S,6] X) => (float[N,S,6] Y)"
CENTRE = "m = ReduceMean(X, axis)  d = Sub(X, m)  "
VARIANCE = "p = Pow(d, two)  v = ReduceMean(p, axis)  a = Add(v, eps)  "
PLAIN = CENTRE + VARIANCE + "r = Sqrt(a)  "
AFTER = SIGNATURE + " { Y = LayerNormalization <axis = -1, epsilon = 0.001> (X, w, b) }"


def constants(dtype=np.float32, axis=(-1,), **more):
    given = {
        "w": RNG.normal(size=6),
        "b": RNG.normal(size=6),
        "eps": 0.001,
        "two": 2,
        "one": 1,
        "half": 0.5,
        "minus_half": -0.5,
        "zero": 0,
        "six": 6,
        "sixth": 1 / 6,
    }
    arrays = {name: np.asarray(value, dtype) for name, value in (given | more).items()}
    return arrays | {"axis": np.array(axis, np.int64)}


@pytest.mark.parametrize(
    "body",
    [
        PLAIN + "n = Div(d, r)  s = Mul(n, w)  Y = Add(s, b)",
        PLAIN + "n = Div(d, r)  s = Mul(w, n)  Y = Add(b, s)",
        PLAIN + "i = Reciprocal(r)  n = Mul(d, i)  s = Mul(n, w)  Y = Add(s, b)",
        PLAIN + "i = Div(one, r)  n = Mul(i, d)  s = Mul(n, w)  Y = Add(s, b)",
        PLAIN + "i = Reciprocal(r)  s = Mul(i, w)  n = Mul(d, s)  Y = Add(n, b)",
        CENTRE + VARIANCE + "r = Pow(a, half)  n = Div(d, r)  s = Mul(n, w)  Y = Add(s, b)",
        CENTRE + VARIANCE + "i = Pow(a, minus_half)  n = Mul(d, i)  s = Mul(n, w)  Y = Add(s, b)",
        PLAIN.replace("Pow(d, two)", "Mul(d, d)") + "n = Div(d, r)  s = Mul(n, w)  Y = Add(s, b)",
        PLAIN.replace("Add(v, eps)", "Add(eps, v)") + "n = Div(d, r)  s = Mul(n, w)  Y = Add(s, b)",
        # The differences computed twice.
        PLAIN + "k = Sub(X, m)  n = Div(k, r)  s = Mul(n, w)  Y = Add(s, b)",
        # Multiplied out, as Keras does.
        "m = ReduceMean(X, axis)  d = Sub(X, m)  p = Mul(d, d)  v = ReduceMean(p, axis)  a = Add(v, eps)  r = Sqrt(a)  "
        "i = Reciprocal(r)  f = Mul(i, w)  x = Mul(X, f)  o = Mul(m, f)  h = Sub(b, o)  Y = Add(x, h)",
        "m = ReduceMean(X, axis)  d = Sub(X, m)  p = Mul(d, d)  v = ReduceMean(p, axis)  a = Add(v, eps)  r = Sqrt(a)  "
        "i = Reciprocal(r)  f = Mul(w, i)  o = Mul(f, m)  h = Sub(b, o)  x = Mul(f, X)  Y = Add(h, x)",
        # Means as sums.
        "t = ReduceSum(X, axis)  m = Div(t, six)  d = Sub(X, m)  p = Mul(d, d)  u = ReduceSum(p, axis)  "
        "v = Mul(u, sixth)  a = Add(v, eps)  r = Sqrt(a)  n = Div(d, r)  s = Mul(n, w)  Y = Add(s, b)",
        # The variance as a difference of squares.
        "m = ReduceMean(X, axis)  q = Mul(X, X)  e = ReduceMean(q, axis)  f = Mul(m, m)  g_ = Sub(e, f)  "
        "v = Max(zero, g_)  a = Add(v, eps)  r = Sqrt(a)  d = Sub(X, m)  n = Div(d, r)  s = Mul(n, w)  Y = Add(s, b)",
    ],
)
def test_every_form(body):
    check_pass(PASS, f"{SIGNATURE} {{ {body} }}", AFTER, weights=constants(), counts={"rewritten": 1})


def test_axes_that_are_dropped_and_put_back():
    text = (
        "g (float[N,6] X) => (float[N,6] Y) { t = ReduceSum <keepdims = 0> (X, axis)  m = Mul(t, sixth)  "
        "c = Reshape(m, column)  d = Sub(X, c)  q = Mul(X, X)  u = ReduceSum <keepdims = 0> (q, axis)  "
        "e = Mul(u, sixth)  f = Mul(m, m)  g_ = Sub(e, f)  x = Max(zero, g_)  v = Reshape(x, column)  "
        "a = Add(v, eps)  r = Sqrt(a)  i = Reciprocal(r)  k = Mul(i, w)  n = Mul(d, k)  Y = Add(n, b) }"
    )
    given = constants(axis=[1], w=RNG.normal(size=(1, 6))) | {"column": np.array([0, 1], np.int64)}
    check_pass(PASS, text, weights=given, ops={"LayerNormalization": 1})


def test_without_scale_and_bias():
    text = f"{SIGNATURE} {{ {PLAIN} Y = Div(d, r) }}"
    after = f"{SIGNATURE} {{ Y = LayerNormalization <axis = -1, epsilon = 0.001> (X, ones) }}"
    check_pass(PASS, text, after, weights=constants())
    text = f"{SIGNATURE} {{ {PLAIN} n = Div(d, r)  Y = Add(n, b) }}"
    after = f"{SIGNATURE} {{ Y = LayerNormalization <axis = -1, epsilon = 0.001> (X, ones, b) }}"
    check_pass(PASS, text, after, weights=constants())


@pytest.mark.parametrize("shape", [(), (1,), (1, 6), (1, 1, 6), (1, 1, 1)])
def test_every_form_of_scale_and_epsilon(shape):
    text = f"{SIGNATURE} {{ {PLAIN} n = Div(d, r)  s = Mul(n, w)  Y = Add(s, b) }}"
    given = constants(w=RNG.normal(size=shape), b=RNG.normal(size=shape), eps=[0.001], two=[2])
    check_pass(PASS, text, AFTER.replace("w, b", "wide, bias"), weights=given)


def test_several_last_axes():
    text = f"{SIGNATURE} {{ {PLAIN} n = Div(d, r)  s = Mul(n, w)  Y = Add(s, b) }}".replace("[N,S,6]", "[N,4,6]")
    given = constants(axis=[2, 1], w=RNG.normal(size=(4, 6)), b=RNG.normal(size=(6,)))
    model = check_pass(PASS, text, weights=given, ops={"LayerNormalization": 1})
    (node,) = model.graph.nodes
    assert node.attr("axis") == -2
    assert node.inputs[2].shape == (4, 6)


def test_a_scale_that_is_computed():
    text = f"{SIGNATURE} {{ {PLAIN} n = Div(d, r)  s = Mul(n, w)  Y = Add(s, b) }}"
    text = text.replace("6] X", "6] X, float[6] w")
    check_pass(PASS, text, weights=constants(), ops={"LayerNormalization": 1})


def test_a_scale_of_another_shape_is_not_its_own():
    signature = "g (float[N,S,6] X, float[N,1,6] w) => (float[N,S,6] Y)"
    text = f"{signature} {{ {PLAIN} n = Div(d, r)  s = Mul(n, w)  Y = Add(s, b) }}"
    check_pass(PASS, text, weights=constants(), ops={"LayerNormalization": 1, "Mul": 1, "Add": 1})
    rows = f"g (float[2,3,6] X) => (float[2,3,6] Y) {{ {PLAIN} n = Div(d, r)  Y = Mul(n, w) }}"
    check_pass(PASS, rows, weights=constants(w=np.ones((3, 1))), ops={"LayerNormalization": 1, "Mul": 1})


def test_half_precision():
    text = f"{SIGNATURE} {{ {PLAIN} n = Div(d, r)  s = Mul(n, w)  Y = Add(s, b) }}".replace("float[", "float16[")
    check_pass(PASS, text, weights=constants(np.float16), ops={"LayerNormalization": 1}, tol=Tolerance.uniform(1e-2))


def test_half_precision_that_is_normalized_in_float32():
    body = PLAIN.replace("X", "f") + "n = Div(d, r)  h = Cast <to = 10> (n)  s = Mul(h, w)  Y = Add(s, b)"
    text = f"g (float16[N,S,6] X) => (float16[N,S,6] Y) {{ f = Cast <to = 1> (X)  {body} }}"
    given = constants() | {name: RNG.normal(size=6).astype(np.float16) for name in "wb"}
    check_pass(PASS, text, weights=given, ops={"LayerNormalization": 1}, tol=Tolerance.uniform(5e-3))
    tail = "s = Mul(n, w)  t = Add(s, b)  Y = Cast <to = 10> (t)"
    wide = text.replace("h = Cast <to = 10> (n)  s = Mul(h, w)  Y = Add(s, b)", tail)
    ops_ = {"Cast": 2, "LayerNormalization": 1}
    check_pass(PASS, wide, weights=constants(), ops=ops_, tol=Tolerance.uniform(5e-3))


def test_bfloat16_keeps_its_type():
    text = f"{SIGNATURE} {{ {PLAIN} n = Div(d, r)  Y = Mul(n, w) }}".replace("float[", "bfloat16[")
    model = model_of(text, constants(ml_dtypes.bfloat16))
    PASS.run(model.graph, PassContext(model))
    assert ops(model) == {"LayerNormalization": 1}


def test_inside_a_branch_with_scale_from_outside():
    text = (
        "g (float[N,S,6] X, bool B) => (float[N,S,6] Z) { Z = If (B) <"
        f"then_branch = t () => (float[N,S,6] Y) {{ {PLAIN} n = Div(d, r)  s = Mul(n, w)  Y = Add(s, b) }}, "
        "else_branch = f () => (float[N,S,6] z) { z = Neg(X) }> }"
    )
    sample = {"X": RNG.normal(size=(2, 3, 6)).astype(np.float32), "B": np.array(True)}
    check_pass(PASS, text, weights=constants(), ops={"If": 1, "LayerNormalization": 1, "Neg": 1}, inputs=sample)


def test_near_misses():
    text = f"{SIGNATURE} {{ {PLAIN} n = Div(d, r)  s = Mul(n, w)  Y = Add(s, b) }}"
    check_declines(PASS, text.replace("N,S", "N,6"), "not the last axes are normalized", weights=constants(axis=[1]))
    other = text.replace("Div(d, r)", "Div(X, r)")
    check_declines(PASS, other, "the root does not divide what it was computed from", weights=constants())
    other = f"{SIGNATURE} {{ {PLAIN} i = Reciprocal(r)  n = Mul(X, i)  s = Mul(n, w)  Y = Add(s, b) }}"
    reason = "the inverse root does not multiply what it was computed from"
    check_declines(PASS, other, reason, weights=constants())
    double = text.replace("float[", "double[")
    reason = "only float32, float16 and bfloat16 are normalized in at least their own precision"
    check_declines(PASS, double, reason, weights=constants(np.float64))
    unknown = text.replace("[N,S,6]", "[N,S,K]")
    check_declines(PASS, unknown, "the sizes of the normalized axes are not known", weights=constants(w=1, b=1))
    old = '<ir_version: 8, opset_import: ["" : 18]> ' + text
    check_pass(PASS, old, weights=constants(), ops={"LayerNormalization": 1})


@pytest.mark.parametrize("name", ["m", "d", "v", "r", "n"])
def test_results_in_the_middle(name):
    size = 1 if name in "mvr" else 6
    signature = f"g (float[N,S,6] X) => (float[N,S,6] Y, float[N,S,{size}] {name})"
    text = f"{signature} {{ {PLAIN} n = Div(d, r)  s = Mul(n, w)  Y = Add(s, b) }}"
    if name == "n":  # normalized, and scaled apart
        check_pass(PASS, text, weights=constants(), ops={"LayerNormalization": 1, "Mul": 1, "Add": 1})
        return
    check_declines(PASS, text, "an intermediate result is used elsewhere or is an output", weights=constants())


@pytest.mark.parametrize(
    "body",
    [
        "Y = Sqrt(X)",
        "a = Add(X, eps)  Y = Sqrt(a)",
        "p = Mul(X, X)  v = ReduceMean(p, axis)  a = Add(v, eps)  r = Sqrt(a)  Y = Div(X, r)",
        PLAIN.replace("v = ReduceMean(p", "v = ReduceMax(p") + "Y = Div(d, r)",
        PLAIN.replace("Pow(d, two)", "Pow(d, one)") + "Y = Div(d, r)",
        PLAIN.replace("m = ReduceMean", "m = ReduceMax") + "Y = Div(d, r)",
    ],
)
def test_other_roots_are_no_near_miss(body):
    check_declines(PASS, f"{SIGNATURE} {{ {body} }}", weights=constants())
