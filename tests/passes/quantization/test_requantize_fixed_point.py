"""requantize-fixed-point: integers from integers by multiplications and shifts, without floats."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.ir import DType, Model
from graphopt.passes.quantization.requantize_fixed_point import RequantizeFixedPoint
from graphopt.proof.oracle import Reference
from graphopt.proof.tolerance import Tolerance
from tests.helpers import check_declines, check_pass, model_of
from tests.passes.quantization.test_integer_form import quantized

PASS = RequantizeFixedPoint()
DQ, Q = "DequantizeLinear", "QuantizeLinear"
STEP = Tolerance({DType.FLOAT: 0.5}, absolute={"Y": 1.01})
WEIGHTS = {
    "s": np.array(0.05, np.float32),
    "t": np.array(0.04, np.float32),
    "u": np.array(0.11, np.float32),
    "half": np.array(0.5, np.float32),
    "one": np.array(1, np.float32),
    "z": np.array(7, np.uint8),
    "y": np.array(128, np.uint8),
    "i": np.array(-3, np.int8),
    "m": np.array([0.011, -0.02, 0.0003, 0], np.float32).reshape(4, 1, 1),
    "b": np.linspace(-1, 1, 4).astype(np.float32).reshape(4, 1, 1),
    "l": np.array(-3, np.float32),
    "h": np.array(6, np.float32),
    "c": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
    "d": np.array([1, 2, 3, 4], np.uint8),
}
TYPES = {"A": "int32", "B": "int32", "R": "uint8", "S": "uint8", "T": "int8"}
SUMS = "f = Cast<to = 1>(A) p = Mul(f, m)"


def inputs(body: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for name, kind in TYPES.items():
        if f"({name}" in body or f", {name}" in body:
            low, high = (-2000, 2000) if kind == "int32" else (-128, 128) if kind == "int8" else (0, 256)
            arrays[name] = rng.integers(low, high, (2, 4, 3, 5)).astype(kind)
    return arrays


def text_of(body: str, scale: str = "u", zero: str = "y", result: str = "2,4,3,5") -> str:
    given = ", ".join(f"{TYPES[name]}[2,4,3,5] {name}" for name in inputs(body))
    return f"g ({given}) => (float[{result}] Y) {{ {body} q = {Q}(v, {scale}, {zero}) Y = Cast<to = 1>(q) }}"


def check(body: str, **options: Any) -> Model:
    """Check that a body that ends in `v` is computed without floats, to within one step."""
    model = check_pass(
        PASS, text_of(body, **options), weights=WEIGHTS, inputs=inputs(body), counts={"rewritten": 1}, tol=STEP
    )
    floats = [node.op for node in model.graph.nodes if node.output.dtype is DType.FLOAT]
    assert floats == ["Cast"]  # that of the output
    return model


@pytest.mark.parametrize(
    "body",
    [
        "f = Cast<to = 1>(A) v = Mul(f, m)",
        f"{SUMS} w = Add(b, p) v = Relu(w)",
        f"{SUMS} w = Clip(p, l, h) v = Relu(w)",
        f"{SUMS} w = Relu(p) v = Clip(w, l, h)",
        f"{SUMS} v = Clip(p, , h)",
        f"{SUMS} r = {DQ}(R, s, z) w = Add(p, r) v = Relu(w)",
        f"{SUMS} r = {DQ}(R, s, z) n = Neg(p) v = Sub(r, n)",
        f"{SUMS} e = Cast<to = 1>(B) k = Mul(s, e) v = Add(p, k)",
        f"r = {DQ}(R, s, z) k = {DQ}(S, t, y) v = Add(r, k)",
        f"r = {DQ}(R, s, z) k = {DQ}(R, t, y) v = Sub(r, k)",
        f"r = {DQ}<axis = 1>(R, c, d) v = Mul(r, b)",
        f"v = {DQ}(T, s, i)",
    ],
)
def test_sums_of_integers(body: str) -> None:
    check(body)
    check(body, zero="z", scale="half")
    check(body, zero="i")


def test_averages_over_images() -> None:
    model = check(f"r = {DQ}(R, s, z) v = GlobalAveragePool(r)", result="2,4,1,1")
    assert Counter(node.op for node in model.graph.nodes)["ReduceSum"] == 1


def exactly(sums: np.ndarray, scale: np.ndarray, zero: int) -> np.ndarray:
    """The definition in integers of any size: the factor with 31 bits, one shift, halves rounded up."""
    largest = max(Fraction(float(number)) for number in np.abs(scale).flat)
    shift = 31
    while largest * 2**shift >= 2**31:
        shift -= 1
    result = np.empty(sums.shape, np.uint8)
    factors = np.broadcast_to(scale, sums.shape)
    for place in np.ndindex(sums.shape):
        factor = round(Fraction(float(factors[place])) * 2**shift)
        result[place] = min(max((int(sums[place]) * factor + (2 * zero + 1) * 2 ** (shift - 1)) >> shift, 0), 255)
    return result


def test_every_bit_follows_the_definition() -> None:
    """Halves, the largest sums of both signs, and a factor above 1, in ONNX Runtime and in compiled code."""
    scale = np.array([0.5, 0.25, -0.0371, 1.9e-5], np.float32).reshape(4, 1, 1)
    rng = np.random.default_rng(1)
    sums = rng.integers(-300, 300, (2, 4, 8, 9)).astype(np.int32)
    sums[:, 3] = rng.integers(-(2**31), 2**31, (2, 8, 9))
    sums[0, 3, 0, :3] = [2**31 - 1, -(2**31), 0]
    text = f"g (int32[2,4,8,9] A) => (uint8[2,4,8,9] Y) {{ f = Cast<to = 1>(A) v = Mul(f, m) Y = {Q}(v, one, z) }}"
    model = model_of(text, {**WEIGHTS, "m": scale})
    changed, _ = graphopt.optimize(model, "infer-shapes,requantize-fixed-point")
    assert not any(node.output.dtype is DType.FLOAT for node in changed.graph.nodes)
    expected = exactly(sums, scale, 7)
    with Reference(changed) as reference:
        np.testing.assert_array_equal(reference.run({"A": sums})["Y"], expected)
    for target in ("host", "x86"):
        artifact = graphopt.compile(model, target=target, passes="infer-shapes,requantize-fixed-point")
        np.testing.assert_array_equal(artifact.run({"A": sums})["Y"], expected)
    assert ((sums[:, 0] % 2 == 1) & (expected[:, 0] > 0)).any()  # halves


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{SUMS} v = Sigmoid(p)", "floats remain: Sigmoid"),
        (f"{SUMS} e = Cast<to = 1>(B) v = Mul(p, e)", "floats remain: Mul of two computed values"),
        (f"{SUMS} w = Relu(p) v = Add(w, b)", "floats remain: Relu"),
        (f"{SUMS} w = Add(p, b) v = Add(w, w)", "floats remain: Add, whose result is read elsewhere too"),
        (f"r = {DQ}<axis = 1>(R, c, d) v = GlobalAveragePool(r)", "floats remain: GlobalAveragePool"),
        ("f = Cast<to = 1>(A) v = Mul(f, far)", "the scales of its channels or operands differ too much for 31 bits"),
    ],
)
def test_what_stays_float(body: str, reason: str) -> None:
    weights = {**WEIGHTS, "far": np.array([1, 1e-7, 1, 1], np.float32).reshape(4, 1, 1)}
    result = "2,4,1,1" if "Pool" in body else "2,4,3,5"
    check_declines(PASS, text_of(body, result=result), reason, weights=weights)


def test_inputs_of_the_model_stay_as_they_are() -> None:
    check_declines(PASS, f"g (float[3,4] X) => (uint8[3,4] Y) {{ Y = {Q}(X, u, y) }}", weights=WEIGHTS)


@pytest.mark.parametrize("target", ["x86", "x86:v4"])
def test_a_network_is_integers_from_the_first_to_the_last_layer(target: str) -> None:
    model, images = quantized("uint8", False, True)
    changed, _ = graphopt.optimize(model, "default,fixed-point,infer-shapes", target=target)
    floats = Counter(node.op for node in changed.graph.nodes if node.output.dtype is DType.FLOAT)
    assert set(floats) <= {"Cast", "Mul", "AveragePool", "LeakyRelu", DQ}
    assert floats["AveragePool"] == floats["LeakyRelu"] == 1
    with Reference(model) as before, Reference(changed) as after:
        expected, result = before.run({"X": images})["Y"], after.run({"X": images})["Y"]
    assert np.abs(result - expected).max() < 0.02 * np.abs(expected).max()
