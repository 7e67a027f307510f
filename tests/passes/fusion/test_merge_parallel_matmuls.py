from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.fusion.merge_parallel_matmuls import MergeParallelMatmuls
from graphopt.proof.tolerance import Tolerance
from tests.helpers import check_declines, check_pass

PASS = MergeParallelMatmuls()
RNG = np.random.default_rng(0)


def weights(dtype=np.float32, **more):
    given = {
        "A": RNG.normal(size=(6, 4)),
        "B": RNG.normal(size=(6, 3)),
        "C": RNG.normal(size=(6, 5)),
        "a": RNG.normal(size=4),
        "b": RNG.normal(size=3),
    }
    return {name: np.asarray(array, dtype) for name, array in (given | more).items()}


SIGNATURE = "g (float[N,S,6] X) => (float[N,S,4] P, float[N,S,3] Q, float[N,S,5] R)"


def test_three_products_become_one():
    check_pass(
        PASS,
        SIGNATURE + " { P = MatMul(X, A)  Q = MatMul(X, B)  R = MatMul(X, C) }",
        SIGNATURE + " { m = MatMul(X, W)  P, Q, R = Split <axis = -1> (m, sizes) }",
        weights=weights(),
        counts={"merged products": 3},
    )


def test_biases_are_merged_too_and_a_missing_one_is_zero():
    check_pass(
        PASS,
        SIGNATURE + " { p = MatMul(X, A)  P = Add(p, a)  q = MatMul(X, B)  Q = Add(b, q)  R = MatMul(X, C) }",
        SIGNATURE + " { m = MatMul(X, W)  n = Add(m, bias)  P, Q, R = Split <axis = -1> (n, sizes) }",
        weights=weights(),
    )


def test_what_reads_the_products_reads_the_parts():
    text = (
        "g (float[N,S,6] X) => (float[N,S,4] Y) { q = Relu(X)  p = MatMul(q, A)  P = Add(p, a)  t = Tanh(P)  "
        "k = MatMul(q, K)  s = Add(k, a)  Y = Mul(t, s) }"
    )
    ops = {"Relu": 1, "MatMul": 1, "Add": 1, "Split": 1, "Tanh": 1, "Mul": 1}
    check_pass(PASS, text, weights=weights(K=RNG.normal(size=(6, 4))), ops=ops)


@pytest.mark.parametrize("trans", [0, 1])
def test_gemms(trans):
    given = weights()
    if trans:
        given |= {name: np.ascontiguousarray(given[name].T) for name in "AB"}
    check_pass(
        PASS,
        f"g (float[N,6] X) => (float[N,4] P, float[N,3] Q) {{ P = Gemm <transB = {trans}, alpha = 0.5> (X, A, a)  "
        f"Q = Gemm <transB = {trans}, alpha = 0.5> (X, B, b) }}",
        weights=given,
        ops={"Gemm": 1, "Split": 1},
    )


def test_gemms_that_differ_are_not_merged():
    text = "g (float[N,6] X) => (float[N,4] P, float[N,3] Q) { P = Gemm <alpha = 0.5> (X, A)  Q = Gemm (X, B) }"
    check_declines(PASS, text, weights=weights())


def test_half_precision():
    text = "g (float16[N,6] X) => (float16[N,4] P, float16[N,3] Q) { P = MatMul(X, A)  Q = MatMul(X, B) }"
    check_pass(PASS, text, weights=weights(np.float16), ops={"MatMul": 1, "Split": 1}, tol=Tolerance.uniform(2e-3))


def quantized(**more):
    given = {name: RNG.integers(-127, 127, size=(6, n)).astype(np.int8) for name, n in zip("ABC", (4, 3, 5))}
    given |= {f"s{name}": RNG.uniform(0.01, 0.1, size=(1, n)).astype(np.float32) for name, n in zip("ABC", (4, 3, 5))}
    given |= {f"z{name}": RNG.integers(-9, 9, size=n).astype(np.int8) for name, n in zip("ABC", (4, 3, 5))}
    return given | more


SCALED = "a = Cast <to = 1> (A)  a1 = Mul(a, sA)  b = Cast <to = 1> (B)  b1 = Mul(sB, b)  "


@pytest.mark.parametrize("scale", [(1, 4), (4,), (1,), ()])
def test_integers_with_a_scale_for_each_column(scale):
    text = f"g (float[N,6] X) => (float[N,4] P, float[N,3] Q) {{ {SCALED} P = MatMul(X, a1)  Q = MatMul(X, b1) }}"
    given = quantized(sA=RNG.uniform(0.01, 0.1, size=scale).astype(np.float32))
    check_pass(PASS, text, weights=given, ops={"Cast": 1, "Mul": 1, "MatMul": 1, "Split": 1})


@pytest.mark.parametrize("zeros", ["", "zero points"])
def test_dequantized_weights(zeros):
    a, b = ("(A, tA, zA)", "(B, tB, zB)") if zeros else ("(A, tA)", "(B, tB)")
    text = (
        f"g (float[N,6] X) => (float[N,4] P, float[N,3] Q) {{ a = DequantizeLinear <axis = 1> {a}  "
        f"b = DequantizeLinear <axis = -1> {b}  P = MatMul(X, a)  Q = MatMul(X, b) }}"
    )
    given = quantized()
    given |= {"tA": given["sA"][0], "tB": given["sB"][0]}
    check_pass(PASS, text, weights=given, ops={"DequantizeLinear": 1, "MatMul": 1, "Split": 1})
    rows = quantized(tA=np.ones(6, np.float32), zA=np.zeros(6, np.int8)) | {"tB": given["tB"]}
    check_declines(PASS, text.replace("axis = 1", "axis = 0"), "the weights are not constant", times=1, weights=rows)


def test_integers_that_are_scaled_otherwise_or_shared():
    text = f"g (float[N,6] X) => (float[N,4] P, float[N,3] Q) {{ {SCALED} P = MatMul(X, a1)  Q = MatMul(X, b1) }}"
    rows = quantized(sA=np.ones((6, 1), np.float32))
    check_declines(PASS, text, "the weights are not scaled column by column", times=1, weights=rows)
    shared = text.replace("(float[N,4] P", "(int8[6,4] V, float[N,4] P").replace("{ a =", "{ V = Neg(A) a =")
    check_declines(PASS, shared, "the weights are used elsewhere too", times=1, weights=quantized())
    floats = text.replace("(float[N,4] P", "(float[6,4] a1, float[N,4] P")
    check_declines(PASS, floats, "the weights are used elsewhere too", times=1, weights=quantized())
    free = text.replace("6] X", "6] X, float[1,4] sA")
    check_declines(PASS, free, "the weights are not constant", times=1, weights=quantized())


def test_plain_and_scaled_weights_do_not_go_together():
    text = f"g (float[N,6] X) => (float[N,4] P, float[N,3] Q) {{ {SCALED} P = MatMul(X, F)  Q = MatMul(X, b1) }}"
    given = quantized(F=RNG.normal(size=(6, 4)).astype(np.float32))
    check_declines(PASS, text, weights=given)


def test_each_input_has_its_own_group():
    text = (
        "g (float[N,6] X, float[N,6] Z) => (float[N,4] P, float[N,3] Q, float[N,4] T, float[N,3] U) { "
        "P = MatMul(X, A)  T = MatMul(Z, D)  Q = MatMul(X, B)  U = MatMul(Z, E) }"
    )
    given = weights(D=RNG.normal(size=(6, 4)), E=RNG.normal(size=(6, 3)))
    check_pass(PASS, text, weights=given, ops={"MatMul": 2, "Split": 2}, counts={"merged products": 4})


def test_products_in_a_branch_are_merged_in_the_branch():
    text = (
        "g (float[N,6] X, bool B_) => (float[N,7] Y) { Y = If (B_) <"
        "then_branch = t () => (float[N,7] y) { p = MatMul(X, A)  q = MatMul(X, B)  y = Concat <axis = 1> (q, p) }, "
        "else_branch = e () => (float[N,7] y) { y = MatMul(X, D) }> }"
    )
    given = weights(D=RNG.normal(size=(6, 7)))
    sample = {"X": np.ones((2, 6), np.float32), "B_": np.array(True)}
    check_pass(PASS, text, weights=given, inputs=sample, counts={"merged products": 2})


def test_near_misses():
    two = "g (float[N,6] X) => (float[N,4] P, float[N,3] Q) { P = MatMul(X, A)  Q = MatMul(X, B) }"
    free = two.replace("6] X", "6] X, float[6,3] B")
    check_declines(PASS, free, "the weights are not constant", times=1, weights=weights())
    shared = two.replace("(float[N,4] P", "(float[6,4] V, float[N,4] P").replace("{ P", "{ V = Neg(A) P")
    check_declines(PASS, shared, "the weights are used elsewhere too", times=1, weights=weights())
    same = "g (float[N,6] X) => (float[N,4] P, float[N,4] Q) { P = MatMul(X, A)  Q = MatMul(X, A) }"
    check_declines(PASS, same, "the weights are used elsewhere too", times=2, weights=weights())
    vector = two.replace("[N,6]", "[6]").replace("[N,", "[")
    check_declines(PASS, vector, "the shared input is not known to have rows", times=2, weights=weights())
    batched = "g (float[N,6] X) => (float[2,N,4] P, float[N,3] Q) { P = MatMul(X, A)  Q = MatMul(X, B) }"
    given = weights(A=RNG.normal(size=(2, 6, 4)))
    check_declines(PASS, batched, "the weights are not a matrix of floats", times=1, weights=given)
    wide = "g (float[4,6] X) => (float[4,4] P, float[4,3] Q) { P = Gemm(X, A, c)  Q = Gemm(X, B) }"
    given = weights(c=RNG.normal(size=(4, 4)))
    check_declines(PASS, wide, "the bias is not a constant with one number a column", times=1, weights=given)
    old = '<ir_version: 8, opset_import: ["" : 17]> '
    check_declines(PASS, old + two, "opset below 18", times=2, weights=weights())


def test_a_lone_product_and_other_operands_are_no_near_miss():
    text = "g (float[N,6] X) => (float[N,4] P, float[N,6] Q) { P = MatMul(X, A)  Q = Relu(X) }"
    check_declines(PASS, text, weights=weights())
    right = "g (float[6,6] X, float[N,6] Z) => (float[N,6] P, float[N,6] Q) { P = MatMul(Z, X)  "
    right += "r = Relu(Z) Q = MatMul(r, X) }"
    check_declines(PASS, right, weights=weights())
