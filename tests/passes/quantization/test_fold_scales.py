"""fold-scales and repeat-dequantize: what a kernel computes between products and the integers after them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.ir import Model, Node
from graphopt.passes.quantization.fold_scales import FoldScales
from graphopt.passes.quantization.repeat_dequantize import RepeatDequantize
from graphopt.proof.tolerance import Tolerance
from tests.helpers import check_declines, check_pass

PASS = FoldScales()
DQ, Q = "DequantizeLinear", "QuantizeLinear"
STEP = Tolerance.uniform(1.01 / 127)  # results of one step and more
WEIGHTS = {
    "s": np.array(0.05, np.float32),
    "t": np.array(0.04, np.float32),
    "u": np.array(0.11, np.float32),
    "z": np.array(7, np.uint8),
    "y": np.array(128, np.uint8),
    "m": np.linspace(0.01, 0.02, 4).astype(np.float32).reshape(4, 1, 1),
    "b": np.linspace(-1, 1, 4).astype(np.float32).reshape(4, 1, 1),
    "l": np.array(-3, np.float32),
    "h": np.array(6, np.float32),
    "c": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
    "d": np.array([1, 2, 3, 4], np.uint8),
}
SUMS = "f = Cast<to = 1>(A) p = Mul(f, m)"


def inputs(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    arrays = {name: rng.integers(0, 256, (2, 4, 3, 5)).astype(np.uint8) for name in ("R", "S")}
    return {**arrays, "A": rng.integers(-1500, 1500, (2, 4, 3, 5)).astype(np.int32)}


def check(body: str, added: int = 0, scale: str = "u", result: str = "2,4,3,5") -> Model:
    """Check that each QuantizeLinear gets the scale 1, with `added` multiplications more than before."""
    types = {"A": "int32", "R": "uint8", "S": "uint8", "X": "float"}
    given = [f"{types[name]}[2,4,3,5] {name}" for name in types if f"({name}" in body or f", {name}" in body]
    text = f"g ({', '.join(given)}) => (float[{result}] Y) {{ {body} q = {Q}(v, {scale}, y) Y = Cast<to = 1>(q) }}"
    before = text.count("Mul(")
    arrays = {name: array for name, array in inputs().items() if f" {name}" in ", ".join(given)}
    arrays |= {"X": np.random.default_rng(1).normal(size=(2, 4, 3, 5)).astype(np.float32) * 9} if "(X" in body else {}
    model = check_pass(PASS, text, weights=WEIGHTS, inputs=arrays, counts={"rewritten": 1}, tol=STEP)
    nodes = list(model.graph.nodes)
    assert all(scale_of(node) == 1 for node in nodes if node.op == Q)
    assert sum(node.op == "Mul" for node in nodes) == before + added
    return model


def scale_of(node: Node) -> float:
    value = node.inputs[1]
    assert value is not None
    assert value.constant is not None
    return float(value.constant.numpy())


@pytest.mark.parametrize(
    "body",
    [
        f"{SUMS} v = Add(p, b)",
        f"{SUMS} w = Add(b, p) v = Relu(w)",
        f"{SUMS} v = Clip(p, l, h)",
        f"{SUMS} v = Clip(p, , h)",
        f"{SUMS} r = {DQ}(R, s, z) w = Add(p, r) v = Relu(w)",
        f"{SUMS} r = {DQ}(R, s, z) w = Relu(p) x = Sub(r, w) v = LeakyRelu<alpha = 0.2>(x)",
        f"r = {DQ}(R, s, z) q1 = {DQ}(S, t, y) w = Add(r, q1) v = Max(w, b)",
        f"r = {DQ}<axis = 1>(R, c, d) v = Neg(r)",
        "w = BatchNormalization(X, c, c, c, c) v = Relu(w)",
        f"v = {DQ}(R, s, z)",
        f"r = {DQ}(R, s, z) q1 = {DQ}(S, t, y) v = Mul(r, q1)",
    ],
)
def test_constants_take_the_scale_up(body: str) -> None:
    check(body)


def test_pools() -> None:
    check(f"r = {DQ}(R, s, z) v = GlobalAveragePool(r)", result="2,4,1,1")
    check(f"r = {DQ}(R, s, z) v = AveragePool<kernel_shape = [2,2], pads = [1,0,0,1]>(r)", result="2,4,3,5")


@pytest.mark.parametrize("body", ["v = Sigmoid(X)", "v = HardSwish(X)", f"{SUMS} w = Sigmoid(p) v = Mul(w, p)"])
def test_a_multiplication_replaces_the_division(body: str) -> None:
    check(body, added=1)


def test_scales_of_channels_become_one() -> None:
    weights = {**WEIGHTS, "e": np.full(4, 128, np.uint8)}
    text = f"""g (float[2,4,3,5] X) => (float[2,4,3,5] Y) {{
        v = Sigmoid(X) q = {Q}<axis = 1>(v, c, e) Y = Cast<to = 1>(q) }}"""
    model = check_pass(
        PASS, text, weights=weights, counts={"rewritten": 1}, tol=STEP, ops={"Mul": 1, Q: 1, "Cast": 1, "Sigmoid": 1}
    )
    assert [scale_of(node) for node in model.graph.nodes if node.op == Q] == [1]
    check_declines(PASS, text, "channels have zero points of their own", weights={**weights, "e": WEIGHTS["d"]})


def test_values_that_others_read_keep_their_scale() -> None:
    text = f"""g (int32[2,4,3,5] A) => (uint8[2,4,3,5] Y, float[2,4,3,5] Z) {{
        {SUMS} v = Relu(p) Y = {Q}(v, u, y) Z = Neg(p) }}"""
    model = check_pass(PASS, text.replace("uint8[2,4,3,5] Y", "float[2,4,3,5] W").replace("Y = ", "q = ")
        .replace(" }", " W = Cast<to = 1>(q) }"), weights=WEIGHTS, counts={"rewritten": 1}, tol=STEP)  # fmt: skip
    assert [node.op for node in model.graph.nodes].count("Mul") == 2


def test_long_chains_are_not_searched_forever() -> None:
    steps = " ".join(f"a{i + 1} = Add(a{i}, b)" for i in range(40))
    check(f"{SUMS} a0 = Relu(p) {steps} v = Relu(a40)", added=1)


def test_what_has_nothing_to_fold() -> None:
    text = f"g (float[3,4] X) => (uint8[3,4] Y) {{ Y = {Q}(X, o, y) }}"
    check_declines(PASS, text, weights={**WEIGHTS, "o": np.array(1, np.float32)})
    check_declines(PASS, text.replace("o, y", "u, y"), weights=WEIGHTS)  # an input
    text = text.replace(f"Y = {Q}(X", f"x = Sqrt(X) Y = {Q}(x")
    tiny = {**WEIGHTS, "o": np.array(1e-42, np.float32)}
    check_declines(PASS, text, "a scale is too small for its reciprocal", weights=tiny)


def test_each_reader_gets_its_own() -> None:
    text = f"""g (uint8[2,4,3,5] R) => (float[2,4,3,5] Y, float[2,4,3,5] Z, float[2,4,3,5] r) {{
        r = {DQ}(R, s, z) Y = Add(r, r) Z = Neg(r) }}"""
    check_pass(RepeatDequantize(), text, weights=WEIGHTS, ops={DQ: 3, "Add": 1, "Neg": 1})
    text = text.replace(", float[2,4,3,5] r)", ")")
    check_pass(RepeatDequantize(), text, weights=WEIGHTS, ops={DQ: 2, "Add": 1, "Neg": 1})
    text = f"g (float[3,4] X) => (float[3,4] Y, float[3,4] Z) {{ w = {DQ}(i, s, z) Y = Add(X, w) Z = Mul(X, w) }}"
    check_declines(RepeatDequantize(), text, weights={**WEIGHTS, "i": np.ones(4, np.uint8)})
