from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.fusion.fuse_softmax import FuseSoftmax
from graphopt.proof.tolerance import Tolerance
from tests.helpers import check_declines, check_pass

PASS = FuseSoftmax()
SIGNATURE = "g (float[N,5,4] X) => (float[N,5,4] Y)"
LARGEST = "m = ReduceMax(X, axis)  d = Sub(X, m)  "
ENDS = ["Y = Div(e, s)", "r = Reciprocal(s)  Y = Mul(e, r)", "r = Reciprocal(s)  Y = Mul(r, e)"]
SUM = "e = Exp(d)  s = ReduceSum(e, axis)  "


def constants(axis=-1, **more):
    return {name: np.array(value, np.int64) for name, value in {"axis": [axis], **more}.items()}


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("start", [LARGEST, "d = Neg(X)  "])
@pytest.mark.parametrize("end", ENDS)
def test_with_and_without_the_largest_taken_off(axis, start, end):
    inner = "X" if start == LARGEST else "d"
    before = f"{SIGNATURE} {{ {start}{SUM}{end} }}"
    kept = "" if start == LARGEST else start
    after = f"{SIGNATURE} {{ {kept} Y = Softmax <axis = {axis}> ({inner}) }}"
    check_pass(PASS, before, after, weights=constants(axis), counts={"rewritten": 1})


def test_axes_counted_from_both_ends():
    text = f"{SIGNATURE} {{ m = ReduceMax(X, front)  d = Sub(X, m)  {SUM} Y = Div(e, s) }}"
    check_pass(PASS, text, weights=constants(front=[2]), ops={"Softmax": 1})


def test_the_largest_along_another_axis_stays():
    text = f"{SIGNATURE} {{ m = ReduceMax(X, front)  d = Sub(X, m)  {SUM} Y = Div(e, s) }}"
    check_pass(PASS, text, weights=constants(front=[1]), ops={"ReduceMax": 1, "Sub": 1, "Softmax": 1})


def test_axes_that_are_dropped_and_put_back():
    text = (
        f"{SIGNATURE} {{ f = ReduceMax <keepdims = 0> (X, axis)  b = Max(low, f)  m = Reshape(b, shape)  "
        "d = Sub(X, m)  "
        "e = Exp(d)  t = ReduceSum <keepdims = 0> (e, axis)  s = Unsqueeze(t, axis)  Y = Div(e, s) }"
    )
    given = constants(shape=[0, 0, 1]) | {"low": np.array(-np.inf, np.float32)}
    check_pass(PASS, text, f"{SIGNATURE} {{ Y = Softmax <axis = -1> (X) }}", weights=given)


def test_large_numbers_that_overflow_without_the_subtraction():
    text = f"{SIGNATURE} {{ e = Exp(X)  s = ReduceSum(e, axis)  Y = Div(e, s) }}"
    check_pass(PASS, text, weights=constants(), inputs={"X": np.full((1, 5, 4), 80, np.float32)}, ops={"Softmax": 1})


def test_half_precision():
    text = f"{SIGNATURE} {{ {LARGEST}{SUM}Y = Div(e, s) }}".replace("float[", "float16[")
    check_pass(PASS, text, weights=constants(), ops={"Softmax": 1}, tol=Tolerance.uniform(5e-3))


@pytest.mark.parametrize("shape", ["Shape(X)", "Identity(kept)"])
def test_a_softmax_from_before_opset_13(shape):
    text = f"{SIGNATURE} {{ f = Flatten <axis = 2> (X)  t = Softmax <axis = -1> (f)  s = {shape}  Y = Reshape(t, s) }}"
    if "kept" in shape:
        text = text.replace("s = Identity(kept)  ", "").replace("(t, s)", "(t, kept)")
    check_pass(PASS, text, f"{SIGNATURE} {{ Y = Softmax <axis = -1> (X) }}", weights=constants(kept=[-1, 5, 4]))


def test_a_softmax_over_several_axes_stays():
    text = f"{SIGNATURE} {{ f = Flatten <axis = 1> (X)  t = Softmax <axis = -1> (f)  s = Shape(X)  Y = Reshape(t, s) }}"
    check_declines(PASS, text, "the rows of the flattened softmax are not known to be the last axis")
    text = SIGNATURE.replace("5,4] Y", "4,5] Y")
    text += " { f = Flatten <axis = 2> (X)  t = Softmax <axis = -1> (f)  Y = Reshape(t, s) }"
    given = constants(s=[0, 4, 5])
    check_declines(PASS, text, "the softmax is not known to be reshaped back", weights=given)


@pytest.mark.parametrize("body", ["q = Add(s, low)  Y = Div(e, q)", "Y = Div(s, e)"])
def test_other_quotients(body):
    reason = "the exponentials are not divided by just their sum"
    given = constants() | {"low": np.array(1e-3, np.float32)}
    text = f"{SIGNATURE} {{ {LARGEST}{SUM}{body} }}"
    check_declines(PASS, text, reason, weights=given)


@pytest.mark.parametrize("total", ["ReduceSum(e, two)", "ReduceSum(e)"])
def test_sums_along_several_axes(total):
    reason = "the exponentials are not summed along one constant axis"
    text = f"{SIGNATURE} {{ {LARGEST} e = Exp(d)  s = {total}  Y = Div(e, s) }}"
    check_declines(PASS, text, reason, weights=constants(two=[1, 2]))


def test_a_sum_along_an_axis_that_is_not_kept():
    text = "g (float[4,4] X) => (float[4,4] Y) { e = Exp(X)  s = ReduceSum <keepdims = 0> (e, axis)  Y = Div(e, s) }"
    check_declines(PASS, text, "the summed axis is not kept", weights=constants())


def test_results_in_the_middle():
    reason = "an intermediate result is used elsewhere or is an output"
    for name, shape in (("e", "N,5,4"), ("s", "N,5,1")):
        text = f"g (float[N,5,4] X) => (float[N,5,4] Y, float[{shape}] {name}) {{ {LARGEST}{SUM}Y = Div(e, s) }}"
        check_declines(PASS, text, reason, weights=constants())


def test_a_difference_that_is_used_elsewhere_is_what_the_softmax_is_of():
    text = f"g (float[N,5,4] X) => (float[N,5,4] Y, float[N,5,4] d) {{ {LARGEST}{SUM}Y = Div(e, s) }}"
    check_pass(PASS, text, weights=constants(), ops={"ReduceMax": 1, "Sub": 1, "Softmax": 1})


def test_other_exponentials_are_no_near_miss():
    check_declines(PASS, f"{SIGNATURE} {{ e = Exp(X)  Y = Neg(e) }}")
    check_declines(PASS, f"{SIGNATURE} {{ Y = Softmax(X) }}")
