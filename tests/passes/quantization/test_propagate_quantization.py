"""propagate-quantization: what moves through what, and what cancels; every result has the same bits as before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.ir import Model
from graphopt.passes.quantization.propagate_quantization import PropagateQuantization
from graphopt.proof.tolerance import EXACT
from tests.helpers import check_declines, check_pass

RNG = np.random.default_rng(0)
PASS = PropagateQuantization()
DQ, Q = "DequantizeLinear", "QuantizeLinear"
MOVES = [
    ("Transpose<perm = [0,2,3,1]>(?)", "1,5,6,4"),
    ("Reshape(?, shape)", "1,4,30"),
    ("Flatten(?)", "1,120"),
    ("Unsqueeze(?, one)", "1,1,4,5,6"),
    ("Squeeze(?, zero)", "4,5,6"),
    ("Slice(?, one, three, two)", "1,4,2,6"),
    ("Gather<axis = 2>(?, three)", "1,4,1,6"),
    ("DepthToSpace<blocksize = 2>(?)", "1,1,10,12"),
    ("Expand(?, five)", "1,4,5,6"),
    ("Tile(?, tiles)", "1,4,10,6"),
    ("MaxPool<kernel_shape = [2,3], pads = [1,1,0,1], strides = [2,1]>(?)", "1,4,3,6"),
    ("ReduceMax(?, two)", "1,4,1,6"),
    ("ReduceMin<keepdims = 0>(?, two)", "1,4,6"),
    ('Resize<mode = "nearest">(?, , scales)', "1,4,10,12"),
    ("Pad(?, pads)", "1,4,7,8"),
    ('Pad<mode = "reflect">(?, pads)', "1,4,7,8"),
]
CONSTANTS = {
    "shape": np.array([1, 4, 30]),
    "zero": np.array([0]),
    "one": np.array([1]),
    "two": np.array([2]),
    "three": np.array([3]),
    "five": np.array([1, 4, 5, 1]),
    "tiles": np.array([1, 1, 2, 1]),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "scales": np.array([1, 1, 2, 2], np.float32),
}


def scale(number: float = 0.05, point: int = 7, dtype: str = "uint8") -> dict[str, np.ndarray]:
    return {"s": np.array(number, np.float32), "z": np.array(point, dtype)}


def order(model: Model) -> list[str]:
    return [node.op for node in model.graph.nodes]


def check(text: str, expected: list[str], **weights: Any) -> None:
    model = check_pass(PASS, text, weights={**CONSTANTS, **scale(), **weights}, changes=True, tol=EXACT)
    assert order(model) == expected


@pytest.mark.parametrize(("op", "result"), MOVES)
@pytest.mark.parametrize(("dtype", "point"), [("uint8", 0), ("uint8", 7), ("uint8", 255), ("int8", -128), ("int8", 3)])
def test_moves(op: str, result: str, dtype: str, point: int) -> None:
    name, weights = op[: op.index("<" if "<" in op else "(")], scale(0.05, point, dtype)
    text = f"g ({dtype}[1,4,5,6] X) => (float[{result}] Y) {{ x = {DQ}(X, s, z) Y = {op.replace('?', 'x')} }}"
    check(text, [name, DQ], **weights)
    text = f"g (float[1,4,5,6] X) => ({dtype}[{result}] Y) {{ x = {op.replace('?', 'X')} Y = {Q}(x, s, z) }}"
    check(text, [Q, name], **weights)
    text = f"""g ({dtype}[1,4,5,6] X) => ({dtype}[{result}] Y) {{
        x = {DQ}(X, s, z) y = {op.replace("?", "x")} Y = {Q}(y, s, z) }}"""
    check(text, [name], **weights)


def test_all_pieces_of_a_split() -> None:
    text = f"g (uint8[3,4] X) => (float[3,2] Y, float[3,2] Z) {{ x = {DQ}(X, s, z) Y, Z = Split<axis = 1>(x, n) }}"
    check(text, ["Split", DQ, DQ], n=np.array([2, 2]))


def test_concatenations() -> None:
    text = "g (uint8[2,3] A, uint8[2,1] B) => (float[2,4] Y) { "
    text += f"a = {DQ}(A, s, z) b = {DQ}(B, s, z) Y = Concat<axis = 1>(a, b) }}"
    check(text, ["Concat", DQ])
    other = {"t": np.array(0.1, np.float32)}
    different = text.replace(f"{DQ}(B, s, z)", f"{DQ}(B, t, z)")
    check_declines(PASS, different, "the scales before and after it differ", weights={**scale(), **other})
    after = (
        different.replace("float[2,4] Y", "uint8[2,4] Y").replace("Y =", "y =").replace(" }", f" Y = {Q}(y, s, z) }}")
    )
    check(after, [DQ, Q, "Concat"], **other)  # the piece with the same scale needs neither


def test_a_concatenation_with_a_constant() -> None:
    text = f"g (float[2,3] A) => (uint8[2,4] Y) {{ y = Concat<axis = 1>(A, c) Y = {Q}(y, s, z) }}"
    check(text, [Q, "Concat"], c=np.array([[0.4], [-9.0]], np.float32))


@pytest.mark.parametrize("value", [0.1, -0.35])
def test_padding_with_a_number(value: float) -> None:
    text = f"g (uint8[1,4,5,6] X) => (float[1,4,7,8] Y) {{ x = {DQ}(X, s, z) Y = Pad(x, pads, v) }}"
    number = np.float32(np.rint(value / 0.05)) * np.float32(0.05)
    check(text, ["Pad", DQ], v=np.array(number, np.float32))
    reason = "what it pads with is no integer of the scale"
    check_declines(PASS, text, reason, weights={**CONSTANTS, **scale(), "v": np.array(0.07, np.float32)})


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_activations_of_which_saturation_does_the_same(dtype: str) -> None:
    low = np.iinfo(dtype).min
    for op in ("Relu(X)", "Clip(X, l, h)", "Clip(X, l)"):
        text = f"g (float[3,4] X) => ({dtype}[3,4] Y) {{ x = {op} Y = {Q}(x, s, z) }}"
        bounds = {"l": np.array(0, np.float32), "h": np.array(6, np.float32)}
        check(text, [Q], **scale(6 / 255, low, dtype), **bounds)
    text = f"g (float[3,4] X) => ({dtype}[3,4] Y) {{ x = Relu(X) Y = {Q}(x, s, z) }}"
    check_declines(PASS, text, weights=scale(0.1, low + 1, dtype))
    text = f"g (float[3,4] X) => ({dtype}[3,4] Y) {{ x = Clip(X, l, h) Y = {Q}(x, s, z) }}"
    check(text, ["Clip", Q], **scale(0.1, low, dtype), **bounds)  # only the upper bound stays


def test_activations_of_integers_within_their_bounds() -> None:
    text = f"g (uint8[3,4] X) => (float[3,4] Y) {{ x = {DQ}(X, s, z) Y = Relu(x) }}"
    check(text, [DQ], **scale(0.1, 0))
    check_declines(PASS, text, weights=scale(0.1, 1))
    text = f"g (uint8[3,4] X) => (float[3,4] Y) {{ x = {DQ}(X, s, z) Y = Clip(x, l, h) }}"
    bounds = {"l": np.array(0, np.float32), "h": np.array(6, np.float32)}
    check(text, [DQ], **scale(6 / 256, 0), **bounds)
    check_declines(PASS, text, weights={**scale(6 / 254, 0), **bounds})


def test_pairs() -> None:
    text = f"g (uint8[3,4] X) => (uint8[3,4] Y) {{ x = {DQ}(X, s, z) y = {Q}(x, s, z) Y = Identity(y) }}"
    check(text, ["Identity"])
    text = f"g (uint8[3,4] X) => (uint8[3,4] Y) {{ x = {DQ}(X, s, z) Y = {Q}(x, t, z) }}"
    weights = {**scale(), "t": np.array(0.06, np.float32)}
    check_declines(PASS, text, "the scales before and after it differ", weights=weights)


def test_stored_weights_are_moved_themselves() -> None:
    weights = {"w": RNG.integers(-9, 9, (3, 4)).astype(np.int8), "t": np.array([0.1, 0.2, 0.3], np.float32)}
    text = f"""g (float[2,4] X) => (float[2,3] Y) {{
        f = {DQ}<axis = 0>(w, t) v = Transpose<perm = [1,0]>(f) Y = MatMul(X, v) }}"""
    check(text, [DQ, "MatMul"], **weights)
    text = f"g (float[2,6] X) => (float[2,2] Y) {{ f = {DQ}(w, s) v = Reshape(f, n) Y = MatMul(X, v) }}"
    check(text, [DQ, "MatMul"], **weights, n=np.array([6, 2]))


def test_rows_of_a_stored_table_are_selected_before_they_become_floats() -> None:
    text = f"g (int64[2,5] X) => (float[2,5,4] Y) {{ f = {DQ}(w, s, z) Y = Gather(f, X) }}"
    check(text, ["Gather", DQ], w=RNG.integers(0, 256, (3, 4)).astype(np.uint8))


def test_what_else_reads_a_value() -> None:
    text = f"""g (float[1,4,5,6] X) => (uint8[1,4,4,5] Y, float[1,4,4,5] Z) {{
        p = MaxPool<kernel_shape = [2,2]>(X) Y = {Q}(p, s, z) Z = Neg(p) }}"""
    check_declines(PASS, text, weights=scale())
    text = f"""g (uint8[3,4] X) => (float[4,3] Y, float[3,4] Z) {{
        x = {DQ}(X, s, z) Y = Transpose<perm = [1,0]>(x) Z = Neg(x) }}"""
    check(text, [DQ, "Transpose", DQ, "Neg"])
