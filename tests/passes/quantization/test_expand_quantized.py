"""expand-quantized: every operator on quantized tensors, against ONNX Runtime's own kernel for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.passes.quantization.expand_quantized import ExpandQuantized
from graphopt.proof.tolerance import Tolerance
from tests.helpers import check_declines, check_pass

RNG = np.random.default_rng(0)
HEADER = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'
STEP = Tolerance.uniform(1.01 / 100)  # one step of results that reach at least 100
POINTS = [("uint8", 0), ("uint8", 7), ("uint8", 128), ("uint8", 255), ("int8", 0), ("int8", -128), ("int8", 5)]


def scalar(number: float) -> np.ndarray:
    return np.array(number, np.float32)


def integers(dtype: str, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def check(text: str, ops: dict[str, int], inputs: dict[str, np.ndarray], tol: Tolerance = STEP, **weights: Any) -> None:
    """Check the pass; integers become floats at the end, so that they may differ by a step."""
    head, _, body = text.partition("=> (")
    if not body.startswith("float"):
        body = "float" + body[body.index("[") :].replace("Y = ", "R = ").replace("}", " Y = Cast<to = 1>(R) }")
        text, ops = f"{head}=> ({body}", {**ops, "Cast": 1}
    check_pass(ExpandQuantized(), f"{HEADER} {text}", ops=ops, inputs=inputs, weights=weights, tol=tol)


def qdq(op: str, data: int = 1, **more: int) -> dict[str, int]:
    return {"DequantizeLinear": data, op: 1, "QuantizeLinear": 1, **more}


@pytest.mark.parametrize(("dtype", "point"), POINTS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_convolutions(dtype: str, point: int, per_channel: bool) -> None:
    text = f"""g ({dtype}[1,4,7,5] X) => ({dtype}[1,6,4,3] Y) {{
        Y = QLinearConv <group = 2, strides = [2,2], pads = [1,1,1,1]> (X, s, z, w, t, v, u, z, b) }}"""
    scales = np.linspace(0.01, 0.03, 6).astype(np.float32) if per_channel else scalar(0.02)
    weights = {"w": integers("int8", 6, 2, 3, 3), "t": scales, "v": np.zeros(scales.shape, np.int8)}
    weights |= {"s": scalar(0.05), "u": scalar(0.02), "z": np.array(point, dtype)}
    weights["b"] = RNG.integers(-900, 900, 6).astype(np.int32)
    check(text, qdq("Conv", 3), {"X": integers(dtype, 1, 4, 7, 5)}, **weights)


@pytest.mark.parametrize("columns", [1, 5])
@pytest.mark.parametrize("shape", [(3, 4), (2, 1, 4)])
def test_matmuls(shape: tuple[int, ...], columns: int) -> None:
    sizes = ",".join(map(str, shape))
    text = f"g (uint8[{sizes}] X) => (uint8[{sizes[:-1]}5] Y) {{ Y = QLinearMatMul(X, s, z, w, t, v, u, y) }}"
    scale = np.linspace(0.1, 0.2, columns).astype(np.float32) if columns > 1 else scalar(0.1)
    weights = {"w": integers("int8", 4, 5), "t": scale, "v": np.zeros(scale.shape, np.int8)}
    weights |= {"s": scalar(0.05), "z": np.uint8(3), "u": scalar(0.9), "y": np.uint8(120)}
    check(text, qdq("MatMul", 2), {"X": integers("uint8", *shape)}, **weights)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("rounded", [False, True])
def test_gemms(transposed: int, rounded: bool) -> None:
    result, more = ("uint8", ", u, y") if rounded else ("float", "")
    text = f"""g (uint8[3,4] X) => ({result}[3,5] Y) {{
        Y = com.microsoft.QGemm <alpha = 0.5, transB = {transposed}> (X, s, z, w, t, v, b{more}) }}"""
    scale = np.linspace(0.1, 0.2, 5).astype(np.float32)
    weights = {"w": integers("int8", *((5, 4) if transposed else (4, 5))), "t": scale, "v": np.zeros(5, np.int8)}
    weights |= {"s": scalar(0.05), "z": np.uint8(3), "u": scalar(0.5), "y": np.uint8(120)}
    weights["b"] = RNG.integers(-900, 900, 5).astype(np.int32)
    ops = qdq("Gemm", 3) if rounded else {"DequantizeLinear": 3, "Gemm": 1}
    check(text, ops, {"X": integers("uint8", 3, 4)}, **weights)


@pytest.mark.parametrize(("op", "scale"), [("Add", 0.09), ("Mul", 0.3)])
def test_sums_and_products(op: str, scale: float) -> None:
    text = f"g (uint8[2,3] A, uint8[3] B) => (uint8[2,3] Y) {{ Y = com.microsoft.QLinear{op}(A, s, z, B, t, v, u, y) }}"
    weights = {"s": scalar(0.05), "z": np.uint8(9), "t": scalar(0.04), "v": np.uint8(128)}
    weights |= {"u": scalar(scale), "y": np.uint8(100)}
    check(text, qdq(op, 2), {"A": integers("uint8", 2, 3), "B": integers("uint8", 3)}, **weights)


@pytest.mark.parametrize(
    ("op", "attributes", "result", "scale"),
    [
        ("LeakyRelu", "alpha = 0.1", "1,4,5,6", 0.05),
        ("Sigmoid", "", "1,4,5,6", 1 / 256),
        ("Softmax", "opset = 13, axis = 1", "1,4,5,6", 1 / 256),
        ("GlobalAveragePool", "", "1,4,1,1", 0.01),
        ("AveragePool", "kernel_shape = [2,3], pads = [1,0,0,1], strides = [2,1]", "1,4,3,5", 0.02),
    ],
)
def test_operators_of_one_tensor(op: str, attributes: str, result: str, scale: float) -> None:
    text = f"""g (uint8[1,4,5,6] X) => (uint8[{result}] Y) {{
        Y = com.microsoft.QLinear{op} <{attributes}> (X, s, z, u, y) }}""".replace("<>", "")
    weights = {"s": scalar(0.05), "z": np.uint8(100), "u": scalar(scale), "y": np.uint8(30)}
    check(text, qdq(op), {"X": integers("uint8", 1, 4, 5, 6)}, **weights)


def test_concatenations_and_choices() -> None:
    weights = {"s": scalar(0.05), "z": np.uint8(9), "t": scalar(0.04), "v": np.uint8(128), "u": scalar(0.06)}
    weights["y"] = np.uint8(100)
    inputs = {"A": integers("uint8", 2, 3), "B": integers("uint8", 2, 1)}
    text = "(uint8[2,3] A, uint8[2,1] B) => (uint8[2,4] Y) { Y = com.microsoft.QLinearConcat <axis = 1>"
    check(f"g {text} (u, y, A, s, z, B, t, v) }}", qdq("Concat", 2), inputs, **weights)
    text = "(bool[2,3] C, uint8[2,3] A, uint8[2,1] B) => (uint8[2,3] Y) { Y = com.microsoft.QLinearWhere"
    inputs["C"] = RNG.random((2, 3)) < 0.5
    check(f"g {text} (C, A, s, z, B, t, v, u, y) }}", qdq("Where", 2), inputs, **weights)


def test_dynamic_matmuls() -> None:
    weights = {"w": integers("int8", 4, 5), "t": np.linspace(0.1, 0.2, 5).astype(np.float32), "b": scalar(1.5)}
    weights |= {"v": np.zeros(5, np.int8)}
    weights["b"] = np.linspace(-2, 2, 5).astype(np.float32)
    text = "g (float[3,4] X) => (float[3,5] Y) { Y = com.microsoft.DynamicQuantizeMatMul(X, w, t, v, b) }"
    inputs = {"X": RNG.normal(size=(3, 4)).astype(np.float32)}
    ops = {"DynamicQuantizeLinear": 1, "DequantizeLinear": 2, "MatMul": 1, "Add": 1}
    check(text, ops, inputs, Tolerance.uniform(1e-5), **weights)
    text = """g (float[3,4] X) => (float[3,5] Y) { q, s, z = DynamicQuantizeLinear(X)
        Y = com.microsoft.MatMulIntegerToFloat(q, w, s, t, z, v, b) }"""
    check(text, ops, inputs, Tolerance.uniform(1e-5), **weights)


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_operators_of_onnx_runtime(per_channel: bool) -> None:
    scales = np.linspace(0.01, 0.03, 3).astype(np.float32) if per_channel else scalar(0.02)
    text = """g (float[2,3,4] X) => (float[2,3,4] Y) { q = com.microsoft.QuantizeLinear <axis = 1> (X, s, z)
        Y = com.microsoft.DequantizeLinear <axis = 1> (q, s, z) }"""
    weights = {"s": scales, "z": np.full(scales.shape, 7, np.uint8)}
    inputs = {"X": RNG.normal(size=(2, 3, 4)).astype(np.float32)}
    check(text, {"QuantizeLinear": 1, "DequantizeLinear": 1}, inputs, Tolerance.uniform(1e-6), **weights)


def test_what_stays() -> None:
    weights = {"w": integers("int8", 4, 5), "t": scalar(0.1), "v": np.int8(0), "z": np.uint8(3), "u": scalar(0.9)}
    text = "(uint8[3,4] X, float s) => (uint8[3,5] Y) { Y = QLinearMatMul(X, s, z, w, t, v, u, z) }"
    check_declines(ExpandQuantized(), f"g {text}", "a scale or a zero point is computed", weights=weights)
    weights |= {"s": np.full(3, 0.05, np.float32), "z": np.full(3, 4, np.uint8), "u": np.full(3, 0.9, np.float32)}
    text = text.replace(", float s", "")
    check_declines(ExpandQuantized(), f"g {text}", "the rows have scales of their own", weights=weights)


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("mask", ["", "int32[2] M", "int32[2,5] M"])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention(per_column: bool, mask: str, causal: int) -> None:
    """QAttention with lengths, with a mask of positions, and of earlier positions alone."""
    declared, name = (f", {mask}", "M") if mask else ("", "")
    text = f"""g (uint8[2,5,8] X{declared}) => (float[2,5,8] Y) {{
        Y = com.microsoft.QAttention <num_heads = 2, unidirectional = {causal}> (X, w, b, s, t, {name}, z, v) }}"""
    scales = np.linspace(0.01, 0.03, 24).astype(np.float32) if per_column else scalar(0.02)
    weights = {"w": integers("int8", 8, 24), "t": scales, "v": np.zeros(scales.shape, np.int8), "z": np.uint8(7)}
    weights |= {"b": RNG.normal(size=24).astype(np.float32), "s": scalar(0.01)}
    inputs = {"X": integers("uint8", 2, 5, 8)}
    if mask:
        inputs["M"] = np.array([5, 2], np.int32)
        if "," in mask:
            inputs["M"] = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0]], np.int32)
    ops = {"DequantizeLinear": 2, "MatMul": 3, "Add": 1 + bool(mask), "Split": 1, "Mul": 1, "Softmax": 1}
    ops |= {"Reshape": 4 + bool(mask), "Transpose": 4}
    if mask or causal:
        ops["Where"] = bool(mask) + causal
    if mask:
        ops["Greater" if "," in mask else "Less"] = 1
    check(text, ops, inputs, Tolerance.uniform(1e-5), **weights)


def test_attention_with_a_memory_declines() -> None:
    text = f"""{HEADER} g (uint8[2,5,8] X, float[2,2,2,3,4] P) => (float[2,5,8] Y, float[2,2,2,8,4] K)
        <float s = {{0.01}}, uint8 z = {{7}}, int8 v = {{0}}> {{
        w = Constant <value = int8[8,24] {{{",".join(["1"] * 192)}}}> ()
        b = Constant <value = float[24] {{{",".join(["1"] * 24)}}}> ()
        Y, K = com.microsoft.QAttention <num_heads = 2, unidirectional = 1> (X, w, b, s, s, , z, v, P) }}"""
    check_declines(ExpandQuantized(), text, "it keeps keys and values of earlier runs")
