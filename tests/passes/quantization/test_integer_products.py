"""integer-products: convolutions and matmuls of dequantized operands on integers, and when they stay floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.ir import DType, Model
from graphopt.passes.quantization.integer_products import IntegerProducts
from tests.helpers import check_declines, check_pass

RNG = np.random.default_rng(0)
PASS = IntegerProducts()
DQ = "DequantizeLinear"


def scalar(number: float) -> np.ndarray:
    return np.array(number, np.float32)


def integers(dtype: str, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def operands(shape: tuple[int, ...], axis: int | None, point: int, **more: Any) -> dict[str, np.ndarray]:
    """Weights with one scale or one for each channel, and the parameters of the data."""
    scale = scalar(0.02) if axis is None else np.linspace(0.01, 0.03, shape[axis]).astype(np.float32)
    known = {"w": integers("int8", *shape), "t": scale, "s": scalar(0.05), "z": np.array(point, np.uint8)}
    return {**known, "v": np.zeros(scale.shape, np.int8), **more}


def check(text: str, weights: dict[str, np.ndarray], ops: dict[str, int]) -> Model:
    model = check_pass(PASS, text, weights=weights, ops=ops, counts={"rewritten": 1})
    for node in model.graph.nodes:
        if node.op in ("ConvInteger", "MatMulInteger"):
            assert [v is not None and v.dtype for v in node.inputs] == [DType.UINT8, DType.INT8]
            assert node.inputs[1] is not None
            assert node.inputs[1].constant is not None
    return model


def conv(attributes: str, channels: int, outputs: int, result: str, bias: str = "") -> str:
    return f"""g (uint8[N,{channels},7,5] X) => (float[N,{outputs},{result}] Y) {{
        x = {DQ}(X, s, z) k = {DQ}<axis = 0>(w, t, v) {bias} Y = Conv<{attributes}>(x, k{", b" if bias else ""}) }}"""


INTEGER = {"ConvInteger": 1, "Cast": 1, "Mul": 1}


@pytest.mark.parametrize("point", [0, 1, 128, 255])
@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize(
    ("attributes", "channels", "outputs", "kernel", "result"),
    [
        ("pads = [1,1,1,1]", 3, 5, 3, "7,5"),
        ("strides = [2,3], pads = [1,0,0,2]", 4, 6, 3, "3,2"),
        ("group = 2", 6, 4, 1, "7,5"),
        ("group = 5, pads = [1,1,1,1], dilations = [2,1]", 5, 5, 3, "5,5"),
        ('auto_pad = "SAME_LOWER", strides = [2,2]', 1, 1, 3, "4,3"),
        ('auto_pad = "VALID"', 2, 3, 3, "5,3"),
    ],
)
def test_convolutions(
    point: int, axis: int | None, attributes: str, channels: int, outputs: int, kernel: int, result: str
) -> None:
    groups = int(attributes[8]) if attributes.startswith("group") else 1
    weights = operands((outputs, channels // groups, kernel, kernel), axis, point)
    padded = bool(point) and ("pads" in attributes or "SAME" in attributes)
    shifted = {"Add": 1} if point else {}
    check(
        conv(attributes, channels, outputs, result), weights, {**INTEGER, **shifted, **({"Pad": 1} if padded else {})}
    )


@pytest.mark.parametrize("point", [0, 7])
@pytest.mark.parametrize("axis", [None, 0])
def test_biases(point: int, axis: int | None) -> None:
    weights = operands((6, 4, 3, 3), axis, point, i=RNG.integers(-900, 900, 6).astype(np.int32))
    weights["u"] = (weights["s"] * weights["t"]).astype(np.float32)
    text = conv("pads = [0,0,0,0]", 4, 6, "5,3", f"b = {DQ}<axis = 0>(i, u)")
    check(text, weights, {**INTEGER, "Add": 1})
    weights["u"] = weights["u"] * np.float32(1.5)  # a bias with a scale of its own stays a float
    check(text, weights, {**INTEGER, "Add": 1 + bool(point)})
    weights["c"] = RNG.normal(size=6).astype(np.float32)
    text = conv("pads = [0,0,0,0]", 4, 6, "5,3").replace("(x, k)", "(x, k, c)")
    check(text, weights, {**INTEGER, "Add": 1 + bool(point)})


@pytest.mark.parametrize("outputs", [4, 8])
@pytest.mark.parametrize("axis", [None, 0])
def test_scales_of_the_channels_of_data(outputs: int, axis: int | None) -> None:
    """As NNCF writes for depthwise convolutions."""
    weights = operands((outputs, 1, 3, 3), axis, 0)
    weights |= {"s": np.linspace(0.01, 0.09, 4).astype(np.float32), "z": np.full(4, 128, np.uint8)}
    text = conv("group = 4, pads = [1,1,1,1]", 4, outputs, "7,5").replace(f"{DQ}(X", f"{DQ}<axis = 1>(X")
    check(text, weights, {**INTEGER, "Add": 1, "Pad": 1})
    weights["z"] = np.array([128, 128, 127, 128], np.uint8)
    check_pass(PASS, text, weights=weights, ops={"Conv": 1, DQ: 1})


def test_one_and_three_spatial_axes() -> None:
    text = f"""g (uint8[2,3,9] X) => (float[2,4,9] Y) {{
        x = {DQ}(X, s, z) k = {DQ}<axis = 0>(w, t, v) Y = Conv<pads = [1,1]>(x, k) }}"""
    check(text, operands((4, 3, 3), 0, 9), {**INTEGER, "Add": 1, "Pad": 1})
    text = text.replace("2,3,9", "2,3,4,5,6").replace("2,4,9", "2,4,3,4,5").replace("<pads = [1,1]>", "")
    check(text, operands((4, 3, 2, 2, 2), 0, 9), {**INTEGER, "Add": 1})


@pytest.mark.parametrize("point", [0, 200])
@pytest.mark.parametrize("shape", [(1, 4), (3, 4), (2, 3, 4), (2, 1, 5, 4)])
@pytest.mark.parametrize("axis", [None, 1])
def test_matmuls(point: int, shape: tuple[int, ...], axis: int | None) -> None:
    sizes = ",".join(map(str, shape))
    text = f"""g (uint8[{sizes}] X) => (float[{sizes[:-1]}5] Y) {{
        x = {DQ}(X, s, z) k = {DQ}<axis = 1>(w, t, v) Y = MatMul(x, k) }}"""
    expected = {"MatMulInteger": 1, "Cast": 1, "Mul": 1}
    check(text, operands((4, 5), axis, point), {**expected, **({"Add": 1} if point else {})})


@pytest.mark.parametrize("point", [0, 7])
def test_gemms_of_transposed_data(point: int) -> None:
    """The integers are transposed, not the floats that they stand for."""
    text = f"""g (uint8[4,N] X) => (float[N,5] Y) {{
        x = {DQ}(X, s, z) k = {DQ}<axis = 1>(w, t, v) Y = Gemm<transA = 1>(x, k) }}"""
    shifted = {"Add": 1} if point else {}
    ops = {"Transpose": 1, "MatMulInteger": 1, "Cast": 1, "Mul": 1, **shifted}
    check(text, operands((4, 5), 1, point), ops)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", ["", "int32", "float", "matrix", "computed"])
def test_gemms(transposed: int, bias: str) -> None:
    shape, axis = ((5, 4), 0) if transposed else ((4, 5), 1)
    weights = operands(shape, axis, 7, i=RNG.integers(-900, 900, 5).astype(np.int32), c=scalar(1.5))
    weights["u"], weights["m"] = weights["s"] * weights["t"] * np.float32(0.5), np.ones((3, 5), np.float32)
    given = {"": "", "int32": ", b", "float": ", c", "matrix": ", m", "computed": ", a"}[bias]
    text = f"""g (uint8[3,4] X, float[5] A) => (float[3,5] Y) {{ a = Neg(A)
        x = {DQ}(X, s, z) k = {DQ}<axis = {axis}>(w, t, v) b = {DQ}<axis = 0>(i, u)
        Y = Gemm<alpha = 0.5, transB = {transposed}>(x, k{given}) }}"""
    if bias != "computed":
        text = text.replace("a = Neg(A)", "").replace(", float[5] A", "")
    if bias != "int32":
        text = text.replace(f"b = {DQ}<axis = 0>(i, u)", "")
    ops = {"MatMulInteger": 1, "Cast": 1, "Mul": 1, "Add": 1 if bias in ("", "int32") else 2}
    check(text, weights, {**ops, **({"Neg": 1} if bias == "computed" else {})})


def test_unsigned_weights() -> None:
    text = f"g (uint8[3,4] X) => (float[3,5] Y) {{ x = {DQ}(X, s, z) k = {DQ}(w, t, v) Y = MatMul(x, k) }}"
    weights = {**operands((4, 5), None, 3), "w": integers("uint8", 4, 5), "v": np.uint8(128)}
    check(text, weights, {"MatMulInteger": 1, "Add": 1, "Cast": 1, "Mul": 1})
    weights["v"], weights["w"][0, 0] = np.uint8(100), 255
    reason = "MatMul: its weights do not fit into int8 without their zero point"
    check_declines(PASS, text, reason, weights=weights)


def test_scales_that_are_computed() -> None:
    text = f"""g (float[3,4] A) => (float[3,5] Y) {{ X, s, z = DynamicQuantizeLinear(A)
        x = {DQ}(X, s, z) k = {DQ}<axis = 1>(w, t, v) Y = MatMul(x, k) }}"""
    weights = {name: array for name, array in operands((4, 5), 1, 0).items() if name not in "sz"}
    ops = {"DynamicQuantizeLinear": 1, "MatMulInteger": 1, "Cast": 2, "Sub": 1, "Mul": 3}
    check(text, weights, ops)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("computed", [True, False])
def test_integer_matmuls_lose_their_zero_points(signed: bool, computed: bool) -> None:
    dtype = "int8" if signed else "uint8"
    points = np.zeros(5, np.int8) if signed else np.full(5, 128, np.uint8)
    weights = {"w": integers(dtype, 4, 5), "v": points, "z": np.uint8(3)}
    if computed:
        text = "g (float[3,4] A) => (int32[3,5] Y) { X, s, z = DynamicQuantizeLinear(A) Y = MatMulInteger(X, w, z, v) }"
        ops = {"DynamicQuantizeLinear": 1, "MatMulInteger": 1, "Cast": 1, "Mul": 1, "Sub": 1}
    else:
        text = "g (uint8[3,4] X) => (int32[3,5] Y) { Y = MatMulInteger(X, w, z, v) }"
        ops = {"MatMulInteger": 1, "Add": 1}
    check(text, weights, ops)


@pytest.mark.parametrize("points", [(0, 0), (3, 0), (0, 128), (7, 130)])
@pytest.mark.parametrize(
    ("left", "right", "result"),
    [("3,4", "4,5", "3,5"), ("2,3,7,4", "2,3,4,5", "2,3,7,5"), ("2,1,4", "4,5", "2,1,5"), ("3,4", "2,4,1", "2,3,1")],
)
def test_products_of_activations(points: tuple[int, int], left: str, right: str, result: str) -> None:
    """As of the scores and the values of attention."""
    weights = {"s": scalar(0.05), "z": np.uint8(points[0]), "t": scalar(0.02), "p": np.uint8(points[1])}
    text = f"""g (uint8[{left}] A, uint8[{right}] B) => (float[{result}] Y) {{
        x = {DQ}(A, s, z) y = {DQ}(B, t, p) Y = MatMul(x, y) }}"""
    ops = {"MatMulInteger": 1, "Cast": 1, "Mul": 1}
    check_pass(PASS, text, weights=weights, ops=ops, counts={"rewritten": 1})
    signed = text.replace("uint8[" + right, "int8[" + right)
    check_pass(PASS, signed, weights={**weights, "p": np.int8(points[1] - 128)}, ops=ops, counts={"rewritten": 1})


def test_stored_matrices_of_a_batch() -> None:
    text = f"g (uint8[2,3,4] X) => (float[2,3,5] Y) {{ x = {DQ}(X, s, z) k = {DQ}(w, t, v) Y = MatMul(x, k) }}"
    check_pass(PASS, text, weights=operands((2, 4, 5), None, 3), ops={"MatMulInteger": 1, "Cast": 1, "Mul": 1})


def test_convolutions_of_floats_get_weights_of_floats() -> None:
    text = f"""g (float[1,4,7,5] X) => (float[1,6,5,3] Y) {{
        k = {DQ}<axis = 0>(w, t, v) b = {DQ}<axis = 0>(i, t) Y = Conv(X, k, b) }}"""
    weights = operands((6, 4, 3, 3), 0, 0, i=RNG.integers(-900, 900, 6).astype(np.int32))
    check_pass(PASS, text, weights=weights, ops={"Conv": 1}, counts={"rewritten": 1})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"x = {DQ}(X, s, z) Y = MatMul(x, f)", "MatMul: its weights are floats"),
        (f"x = {DQ}(X, s, z) y = {DQ}(X2, s, z) Y = Gemm(x, y)", "Gemm: its weights are not constant"),
        (
            f"x = {DQ}(X, s, z) y = {DQ}<axis = 1>(X2, r, q) Y = MatMul(x, y)",
            "MatMul: its weights are not constant",
        ),
        (
            f"x = {DQ}<axis = 1>(X, r, q) k = {DQ}(w, t, v) Y = MatMul(x, k)",
            "MatMul: its data has a scale for each channel",
        ),
        (
            f"x = {DQ}(X, s, z) k = {DQ}<axis = 0>(w, r, p) Y = MatMul(x, k)",
            "MatMul: its weights have scales along what it sums over",
        ),
        (f"x = Neg(A) k = {DQ}(w, t, v) Y = MatMul(x, k)", "MatMul: its data is not quantized"),
    ],
)
def test_what_stays(text: str, reason: str) -> None:
    weights = operands((4, 4), None, 3, f=np.ones((4, 4), np.float32), q=np.zeros(4, np.uint8), p=np.zeros(4, np.int8))
    weights["r"] = np.linspace(0.1, 0.2, 4).astype(np.float32)
    inputs = {"X": "uint8[4,4] X", "X2": "uint8[4,4] X2", "A": "float[4,4] A"}
    given = [what for name, what in inputs.items() if f"({name}" in text]
    check_declines(PASS, f"g ({', '.join(given)}) => (float[4,4] Y) {{ {text} }}", reason, weights=weights)


def test_floats_are_no_near_miss() -> None:
    check_declines(PASS, "g (float[4,4] X) => (float[4,4] Y) { Y = MatMul(X, f) }", weights={"f": np.ones((4, 4), "f")})
