from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.fusion.fuse_silu import FuseSilu
from graphopt.proof.tolerance import Tolerance
from tests.helpers import check_declines, check_pass

PASS = FuseSilu()
SIGNATURE = "g (float[N,5] X) => (float[N,5] Y)"
NUMBERS = {"k": np.array(1.702, np.float32), "d": np.array([2.0], np.float32)}


@pytest.mark.parametrize("product", ["Mul(X, s)", "Mul(s, X)"])
def test_both_orders(product):
    check_pass(
        PASS,
        f"{SIGNATURE} {{ s = Sigmoid(X)  Y = {product} }}",
        f"{SIGNATURE} {{ Y = Swish(X) }}",
        counts={"rewritten": 1},
    )


@pytest.mark.parametrize("argument", ["Mul(X, k)", "Mul(k, X)", "Div(X, d)"])
def test_a_factor_on_the_argument(argument):
    text = f"{SIGNATURE} {{ a = {argument}  s = Sigmoid(a)  Y = Mul(X, s) }}"
    model = check_pass(PASS, text, weights=NUMBERS, ops={"Swish": 1})
    (node,) = model.graph.nodes
    assert node.attr("alpha") == pytest.approx(0.5 if "Div" in argument else 1.702)


def test_half_and_double_precision():
    half = f"{SIGNATURE} {{ s = Sigmoid(X)  Y = Mul(X, s) }}".replace("float", "float16")
    check_pass(PASS, half, ops={"Swish": 1}, tol=Tolerance.uniform(2e-3))
    double = f"{SIGNATURE} {{ a = Mul(X, k)  s = Sigmoid(a)  Y = Mul(X, s) }}".replace("float", "double")
    check_declines(PASS, double, "a factor in double precision", weights={"k": np.array(1.702)})
    check_pass(PASS, double, weights={"k": np.array(1.5)}, ops={"Swish": 1})


def test_a_sigmoid_that_is_used_elsewhere():
    reason = "an intermediate result is used elsewhere or is an output"
    text = "g (float[N,5] X) => (float[N,5] Y, float[N,5] s) { s = Sigmoid(X)  Y = Mul(X, s) }"
    check_declines(PASS, text, reason)
    both = "g (float[N,5] X) => (float[N,5] Y, float[N,5] Z) { s = Sigmoid(X)  Y = Mul(X, s)  Z = Add(X, s) }"
    check_declines(PASS, both, reason)


def test_older_opsets_have_no_swish():
    header = '<ir_version: 10, opset_import: ["" : 23]> '
    check_declines(PASS, f"{header}{SIGNATURE} {{ s = Sigmoid(X)  Y = Mul(X, s) }}", "opset below 24")


def test_gates_are_no_near_miss():
    gate = "g (float[N,5] X, float[N,5] Z) => (float[N,5] Y) { s = Sigmoid(X)  Y = Mul(Z, s) }"
    check_declines(PASS, gate)
    check_declines(PASS, f"{SIGNATURE} {{ s = Sigmoid(X)  Y = Mul(s, s) }}")
    vector = "g (float[5] X) => (float[1,5] Y) { a = Mul(X, m)  s = Sigmoid(a)  Y = Mul(X, s) }"
    check_declines(PASS, vector, weights={"m": np.array([[2.0]], np.float32)})
