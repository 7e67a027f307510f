"""dequantize-constants: stored operands of elementwise operators become floats, weights stay integers."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.quantization.dequantize_constants import DequantizeConstants
from tests.helpers import check_declines, check_pass

RNG = np.random.default_rng(0)
DQ = "DequantizeLinear"
WEIGHTS = {
    "i": RNG.integers(-128, 128, (4, 1, 1)).astype(np.int8),
    "b": RNG.integers(-(10**6), 10**6, (4, 1, 1)).astype(np.int32),
    "w": RNG.integers(-128, 128, (5, 4)).astype(np.int8),
    "c": np.array([0.1, 0.2, 0.3, 0.7], np.float32),
    "p": np.array([1, -2, 3, 7], np.int8),
    "s": np.array(0.03, np.float32),
    "z": np.array(-5, np.int8),
}


@pytest.mark.parametrize("stored", [f"{DQ}(i, s, z)", f"{DQ}(i, s)", f"{DQ}<axis = 0>(i, c, p)", f"{DQ}(b, s)"])
@pytest.mark.parametrize("op", ["Add(X, v)", "Mul(v, X)", "PRelu(X, v)", "Max(X, v, v)"])
def test_operands_of_elementwise_operators(stored: str, op: str) -> None:
    text = f"g (float[2,4,3,5] X) => (float[2,4,3,5] Y) {{ v = {stored} Y = {op} }}"
    check_pass(DequantizeConstants(), text, weights=WEIGHTS, ops={op[: op.index("(")]: 1}, counts={"rewritten": 1})


@pytest.mark.parametrize("body", [f"v = {DQ}(w, s) Y = MatMul(X, v)", f"v = {DQ}(w, s) u = Add(v, s) Y = MatMul(v, u)"])
def test_weights_stay(body: str) -> None:
    given, result = ("float[3,5] X", "3,4") if "X" in body else ("float[5,4] X", "5,4")
    if "X" not in body:
        body = body.replace("Y = MatMul(v, u)", "t = Transpose(v) m = MatMul(u, t) Y = MatMul(m, X)")
    check_declines(DequantizeConstants(), f"g ({given}) => (float[{result}] Y) {{ {body} }}", weights=WEIGHTS)


def test_data_and_outputs_stay() -> None:
    text = f"g (int8[4,1,1] X) => (float[4,1,1] Y) {{ v = {DQ}(X, s, z) Y = Add(v, s) }}"
    check_declines(DequantizeConstants(), text, weights=WEIGHTS)
    text = f"g (float[4,1,1] X) => (float[4,1,1] Y, float[4,1,1] v) {{ v = {DQ}(i, s, z) Y = Add(v, X) }}"
    check_declines(DequantizeConstants(), text, weights=WEIGHTS)
