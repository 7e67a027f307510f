"""Operators, parameters, bytes and arithmetic are counted right."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.analysis.flops import count_flops
from graphopt.analysis.statistics import measure
from graphopt.ir import infer_shapes
from tests.helpers import model_of


def flops(text: str, weights: dict[str, np.ndarray] | None = None) -> list[int | None]:
    model = model_of(text, weights)
    infer_shapes(model)
    return [count_flops(node) for node in model.graph.nodes]


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("text", "weights", "expected"),
    [
        # 2 x output elements x weights of one output channel (+ bias)
        ("g (float[1,3,8,8] x) => (float[1,4,6,6] y) { y = Conv(x, w) }", {"w": zeros(4, 3, 3, 3)}, 2 * 144 * 27),
        (
            "g (float[1,3,8,8] x) => (float[1,4,6,6] y) { y = Conv(x, w, b) }",
            {"w": zeros(4, 3, 3, 3), "b": zeros(4)},
            144 * (2 * 27 + 1),
        ),
        (
            "g (float[1,4,8,8] x) => (float[1,4,6,6] y) { y = Conv<group=4>(x, w) }",
            {"w": zeros(4, 1, 3, 3)},
            2 * 144 * 9,
        ),
        (
            "g (float[1,3,4,4] x) => (float[1,5,8,8] y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
            {"w": zeros(3, 5, 2, 2)},
            2 * 48 * 5 * 4,
        ),
        ("g (float[2,3,4] x) => (float[2,3,5] y) { y = MatMul(x, w) }", {"w": zeros(4, 5)}, 2 * 30 * 4),
        (
            "g (float[4,3] x) => (float[3,5] y) { y = Gemm<transA=1>(x, w, b) }",
            {"w": zeros(4, 5), "b": zeros(5)},
            15 * (2 * 4 + 1),
        ),
        ("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }", {}, 6),
        ("g (float[2,3] x) => (float[2,3] y) { y = Softmax(x) }", {}, 30),
        ("g (float[2,3] x) => (float[1,1] y) { y = ReduceMean(x) }", {}, 6),
        ("g (float[2,3] x) => (float[3,2] y) { y = Transpose(x) }", {}, 0),
        (
            "g (float[1,1,4,4] x) => (float[1,1,2,2] y) { y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }",
            {},
            16,
        ),
        (
            'g (float[2,3] x, float[3,4] z) => (float[2,4] y) { y = Einsum<equation="ij,jk->ik">(x, z) }',
            {},
            2 * 24,
        ),
        (
            "g (float[5,2,3] x) => (float[5,1,2,4] y) { y = LSTM<hidden_size=4>(x, w, r) }",
            {"w": zeros(1, 16, 3), "r": zeros(1, 16, 4)},
            2 * 5 * 2 * 4 * 4 * (3 + 4),
        ),
        (
            "g (float[1,2,6,8] q, float[1,2,7,8] k, float[1,2,7,8] v) => (float[1,2,6,8] y) { y = Attention(q, k, v) }",
            {},
            2 * 2 * 6 * 7 * (8 + 8),
        ),
        (
            "g (float[1,6,16] q, float[1,7,16] k, float[1,7,16] v) => (float[1,6,16] y) "
            "{ y = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v) }",
            {},
            2 * 2 * 6 * 7 * (8 + 8),
        ),
    ],
)
def test_flops_of_one_operator(text: str, weights: dict[str, np.ndarray], expected: int) -> None:
    assert flops(text, weights) == [expected]


def test_unknown_shapes_and_operators_are_unknown() -> None:
    assert flops("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }") == [None]
    header = '<ir_version: 11, opset_import: ["" : 24, "com.example" : 1]>'
    assert flops(header + "g (float[3] x) => (float[3] y) { y = com.example.Odd(x) }") == [None]


def test_measure_counts_shared_and_nested_constants_once() -> None:
    model = model_of(
        "g (float[2,4] x, bool c) => (float[2,4] y) { a = MatMul(x, w)  b = MatMul(a, w)  y = If(c) <"
        "then_branch = t () => (float[2,4] p) { p = Add(b, v) }, "
        "else_branch = e () => (float[2,4] q) { q = Mul(b, v) }> }",
        {"w": zeros(4, 4), "v": zeros(4)},
    )
    found = measure(model)
    assert found.parameters == 20
    assert found.bytes == 80
    assert [(layer.op, layer.parameters) for layer in found.layers] == [
        ("MatMul", 16),
        ("MatMul", 0),
        ("If", 0),
        ("Add", 4),
        ("Mul", 0),
    ]
    assert found.flops == 2 * 2 * 8 * 4 + 8 + 8
    assert not found.unknown
    assert found.inputs == {"x": "float32[2,4]", "c": "bool[]"}


def test_measure_leaves_the_model_alone() -> None:
    model = model_of("g (float[N,3] x) => (float[N,3] y) { a = Relu(x)  y = Relu(a) }")
    version = model.version
    found = measure(model)
    assert model.version == version
    assert found.unknown == {"Relu": 2}
    assert found.flops_text == "?"
    assert found.to_json()["flops_unknown"] == {"Relu": 2}
    assert [row[0] for row in found.operators().rows] == ["Relu"]
    assert len(found.largest_layers(1).rows) == 1
