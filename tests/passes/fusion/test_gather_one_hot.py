from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.fusion.gather_one_hot import GatherOneHot
from tests.helpers import check_declines, check_pass

PASS = GatherOneHot()
TABLE = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
WEIGHTS = {"n": np.arange(5, dtype=np.int64).reshape(1, 1, 5), "w": TABLE}
TEXT = "g (int64[2,N,1] X) => (float[2,N,3] Y) { e = Equal(X, n)  c = Cast<to = 1>(e)  Y = MatMul(c, w) }"


@pytest.mark.parametrize("order", ["Equal(X, n)", "Equal(n, X)"])
def test_indices_outside_give_zeros(order):
    numbers = np.array([[[0], [4], [2], [-1], [5]], [[-7], [1], [3], [1000], [4]]], np.int64)
    check_pass(
        PASS,
        TEXT.replace("Equal(X, n)", order),
        weights=WEIGHTS,
        ops={"Squeeze": 1, "Clip": 1, "Gather": 1},
        inputs={"X": numbers},
        counts={"rewritten": 1},
    )


def test_int32():
    weights = {"n": np.arange(5, dtype=np.int32), "w": TABLE}
    text = TEXT.replace("int64", "int32")
    check_pass(PASS, text, weights=weights, inputs={"X": np.array([[[3]], [[9]]], np.int32)}, changes=True)


def test_other_numbers_than_those_of_the_rows():
    weights = {"n": np.array([0, 1, 2, 4, 3]), "w": TABLE}
    check_declines(PASS, TEXT, "nothing is compared with the numbers of the table's rows", weights=weights)


def test_infinities_reach_every_row():
    table = TABLE.copy()
    table[1, 1] = np.inf
    reason = "the table holds infinities or NaN, which reach every row"
    check_declines(PASS, TEXT, reason, weights=WEIGHTS | {"w": table})


def test_a_last_axis_that_is_broadcast_the_other_way():
    text = TEXT.replace("int64[2,N,1]", "int64[2,N,5]")
    check_declines(PASS, text, "the index is not known to have a last axis of one element", weights=WEIGHTS)
