"""unsigned-activations: int8 values become uint8 ones together with all that moves them; the floats keep their bits."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir import DType
from graphopt.passes.quantization.unsigned_activations import UnsignedActivations
from tests.helpers import check_declines, check_pass, value_named

PASS = UnsignedActivations()
HEAD = "g (float[1,4,5,6] X) => (float[1,4,5,6] Y)"
CONVERSION = {"Cast": 2, "Add": 1}


def weights(point: int = 5) -> dict[str, np.ndarray]:
    known = {"s": np.array(0.05, np.float32), "z": np.array(point, np.int8), "p": np.array([0, 0, 1, 0, 0, 0, 0, 2])}
    return {**known, "v": np.array(9, np.int8), "c": np.full((1, 4, 5, 1), -3, np.int8), "n": np.array([2, 2])}


@pytest.mark.parametrize("point", [-128, 0, 5, 127])
def test_pairs(point: int) -> None:
    text = f"{HEAD} {{ q = QuantizeLinear(X, s, z) Y = DequantizeLinear(q, s, z) }}"
    model = check_pass(PASS, text, weights=weights(point), counts={"activations made unsigned": 1})
    assert value_named(model, "q").dtype is DType.UINT8
    text = f"{HEAD} {{ q = QuantizeLinear<output_dtype = 3>(X, s) Y = DequantizeLinear(q, s) }}"
    check_pass(PASS, text, weights=weights(), counts={"activations made unsigned": 1})


def test_scales_of_channels() -> None:
    known = {"s": np.linspace(0.1, 0.2, 4).astype(np.float32), "z": np.int8([0, 3, -4, 100])}
    text = f"{HEAD} {{ q = QuantizeLinear<axis = 1>(X, s, z) Y = DequantizeLinear<axis = 1>(q, s, z) }}"
    model = check_pass(PASS, text, weights=known, counts={"activations made unsigned": 1})
    assert value_named(model, "q").dtype is DType.UINT8


@pytest.mark.parametrize("pad", ["Pad(q, p)", "Pad(q, p, v)", 'Pad<mode = "edge">(q, p)'])
def test_moved_together(pad: str) -> None:
    text = f"""g (float[1,4,5,6] X) => (float[N,C,H,W] Y, float[N,C,H,W] Z) {{ q = QuantizeLinear(X, s, z) r = {pad}
        m = MaxPool<kernel_shape = [2,2]>(r) a, b = Split<axis = 1>(m, n) d = Concat<axis = 3>(c, q, a2)
        a2 = Transpose(q2) q2 = Transpose(q) Y = DequantizeLinear(a, s, z) Z = DequantizeLinear(d, s, z) }}"""
    text = text.replace("d = Concat<axis = 3>(c, q, a2)\n        a2 = Transpose(q2) q2 = Transpose(q)", "")
    text = text.replace("Z = Deq", "t = Transpose(q) u = Transpose(t) d = Concat<axis = 3>(c, q, u) Z = Deq")
    model = check_pass(PASS, text, weights=weights(), counts={"activations made unsigned": 8})
    assert not any(value.dtype is DType.INT8 for node in model.graph.nodes for value in node.outputs)


def test_numbers_from_elsewhere_are_converted() -> None:
    text = "g (int8[1,4,5,6] X) => (float[1,4,5,6] Y) { Y = DequantizeLinear(X, s, z) }"
    check_pass(PASS, text, weights=weights(), ops={**CONVERSION, "DequantizeLinear": 1})


def test_numbers_needed_elsewhere_are_converted_back() -> None:
    text = """g (float[1,4,5,6] X) => (float[1,4,5,6] Y, int32[1,4,5,6] Z) {
        q = QuantizeLinear(X, s, z) Y = DequantizeLinear(q, s, z) Z = Cast<to = 6>(q) }"""
    expected = {"QuantizeLinear": 1, "DequantizeLinear": 1, "Cast": 3, "Add": 1}
    check_pass(PASS, text, weights=weights(), ops=expected)


def test_an_input_that_is_needed_elsewhere() -> None:
    text = """g (int8[1,4,5,6] X) => (float[1,4,5,6] Y, int32[1,4,5,6] Z) {
        Z = Cast<to = 6>(X) Y = DequantizeLinear(X, s, z) }"""
    check_pass(PASS, text, weights=weights(), ops={"DequantizeLinear": 1, "Cast": 3, "Add": 1})


def test_what_stays() -> None:
    text = f"{HEAD} {{ q = QuantizeLinear(X, s, u) Y = DequantizeLinear(q, s, u) }}"
    check_declines(PASS, text, weights={**weights(), "u": np.array(3, np.uint8)})
    text = """g (float[1,4] X) => (float[1,4] Y, int8[1,4] q) {
        q = QuantizeLinear(X, s, z) Y = DequantizeLinear(q, s, z) }"""
    check_declines(PASS, text, "int8 numbers are an output, or used across graphs", weights=weights())
