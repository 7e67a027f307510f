from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.fusion.fuse_transpose_matmul import FuseTransposeMatmul
from tests.helpers import check_declines, check_pass

PASS = FuseTransposeMatmul()
SWAP = "Transpose <perm = [1, 0]>"
SWAP_LAST = "Transpose <perm = [0, 2, 1]>"


def test_transposed_factors_of_a_matrix_product():
    text = "g (float[3,N] A, float[3,4] B) => (float[N,4] Y) { a = Transpose <perm = [1, 0]> (A)  Y = MatMul(a, B) }"
    after = "g (float[3,N] A, float[3,4] B) => (float[N,4] Y) { Y = Gemm <transA = 1> (A, B) }"
    check_pass(PASS, text, after, counts={"rewritten": 1})
    text = (
        "g (float[3,N] A, float[4,3] B) => (float[N,4] Y) { "
        "a = Transpose(A)  b = Transpose <perm = [1, 0]> (B)  Y = MatMul(a, b) }"
    )
    after = "g (float[3,N] A, float[4,3] B) => (float[N,4] Y) { Y = Gemm <transA = 1, transB = 1> (A, B) }"
    check_pass(PASS, text, after)


def test_transposed_factors_of_a_gemm():
    text = (
        "g (float[N,3] A, float[4,3] B, float[4] C) => (float[N,4] Y) { "
        f"a = {SWAP} (A)  b = {SWAP} (B)  Y = Gemm <transA = 1, alpha = 0.5, beta = 2.0> (a, b, C) }}"
    )
    after = (
        "g (float[N,3] A, float[4,3] B, float[4] C) => (float[N,4] Y) { "
        "Y = Gemm <transA = 0, transB = 1, alpha = 0.5, beta = 2.0> (A, B, C) }"
    )
    check_pass(PASS, text, after)


def test_a_transpose_with_other_users_stays_for_them():
    text = f"g (float[3,N] A, float[3,4] B) => (float[N,4] Y, float[N,3] a) {{ a = {SWAP} (A)  Y = MatMul(a, B) }}"
    check_pass(PASS, text, ops={"Transpose": 1, "Gemm": 1})


def test_a_transposed_product_of_transposed_factors():
    text = (
        "g (float[B,3,N] P, float[B,4,3] Q) => (float[B,4,N] Y) { p = Transpose <perm = [0, 2, 1]> (P)  "
        "q = Transpose <perm = [0, 2, 1]> (Q)  t = MatMul(p, q)  Y = Transpose <perm = [0, 2, 1]> (t) }"
    )
    check_pass(PASS, text, "g (float[B,3,N] P, float[B,4,3] Q) => (float[B,4,N] Y) { Y = MatMul(Q, P) }")


def test_a_transposed_product_of_matrices():
    text = f"g (float[N,3] A, float[3,4] B) => (float[4,N] Y) {{ t = MatMul(A, B)  Y = {SWAP} (t) }}"
    after = "g (float[N,3] A, float[3,4] B) => (float[4,N] Y) { Y = Gemm <transA = 1, transB = 1> (B, A) }"
    check_pass(PASS, text, after)
    text = "g (float[N,3] A, float[4,3] B) => (float[4,N] Y) { t = Gemm <transB = 1, alpha = 2.0> (A, B)  "
    text += f"Y = {SWAP} (t) }}"
    after = "g (float[N,3] A, float[4,3] B) => (float[4,N] Y) { Y = Gemm <transA = 0, transB = 1, alpha = 2.0> (B, A) }"
    check_pass(PASS, text, after)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            f"g (float[B,3,N] P, float[3,4] Q) => (float[B,N,4] Y) {{ p = {SWAP_LAST} (P)  Y = MatMul(p, Q) }}",
            "only Gemm can transpose, and it takes matrices",
        ),
        (
            f"g (int32[3,N] A, int32[3,4] B) => (int32[N,4] Y) {{ a = {SWAP} (A)  Y = MatMul(a, B) }}",
            "the factors are not known to be floats",
        ),
        (
            f"g (float[N,3] A) => (float[4,N] Y) {{ t = MatMul(A, W)  Y = {SWAP} (t) }}",
            "swapping the factors would transpose a weight that products take as it is",
        ),
        (
            f"g (float[N,3] A, float[3,4] B) => (float[4,N] Y, float[N,4] t) {{ t = MatMul(A, B)  Y = {SWAP} (t) }}",
            "the product is used elsewhere too",
        ),
        (
            f"g (float[N,3] A, float[3,4] B, float[4] C) => (float[4,N] Y) {{ t = Gemm(A, B, C)  Y = {SWAP} (t) }}",
            "the transposed Gemm has a bias",
        ),
        (
            f"g (float[B,N,3] P, float[3,4] Q) => (float[B,4,N] Y) {{ t = MatMul(P, Q)  Y = {SWAP_LAST} (t) }}",
            "the factors of a transposed product are neither matrices nor both transposed",
        ),
    ],
)
def test_near_misses(text, reason):
    check_declines(PASS, text, reason, weights={"W": np.ones((3, 4), np.float32)})


def test_other_permutations_and_plain_products_are_no_near_miss():
    check_declines(PASS, "g (float[N,3] A, float[3,4] B) => (float[N,4] Y) { Y = MatMul(A, B) }")
    text = "g (float[B,N,3] P, float[3,4] Q) => (float[N,B,4] Y) { t = MatMul(P, Q)  "
    text += "Y = Transpose <perm = [1, 0, 2]> (t) }"
    check_declines(PASS, text)
