"""smooth-activations: where the division goes, that results stay, and what it saves where channels are uneven."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from graphopt.errors import InputError
from graphopt.passes.quantization.smooth_activations import SmoothActivations
from tests.helpers import model_of
from tests.passes.quantization.measuring import Feed, noise, random, run

OPSET = '<ir_version: 10, opset_import: ["" : 23]>'
SIZE = 32
CASES = {
    "normalization": (
        "n = LayerNormalization(X, s, b)  q = MatMul(n, w)  k = MatMul(n, v)  t = Softmax(q)  Y = Mul(t, k)",
        {"activations divided": 1},
        0,
    ),
    "rms": ("n = RMSNormalization(X, s)  Y = MatMul(n, w)", {"activations divided": 1}, 0),
    "product": (
        "n = LayerNormalization(X, b, b)  a = MatMul(n, u)  c = Add(a, s)  r = Relu(c)  Y = MatMul(r, w)",
        {"activations divided": 1},
        0,
    ),
    "other use": (
        "n = LayerNormalization(X, s, b)  q = MatMul(n, w)  Y = Add(q, n)",
        {"activations divided by a Mul": 1},
        1,
    ),
    "function": ("e = Mul(X, s)  Y = MatMul(e, w)", {"activations divided by a Mul": 1}, 2),
}


def made() -> Feed:
    """Two channels are a hundred times as large as the others."""
    constants = random(0, w=(SIZE, SIZE), v=(SIZE, SIZE), u=(SIZE, SIZE), b=(SIZE,), s=(SIZE,))
    constants["s"] = np.ones(SIZE, np.float32)
    constants["s"][[3, 17]] = 100
    constants["u"][:, 9] *= 50
    return constants


def case(name: str) -> tuple[Any, list[Feed]]:
    body = CASES[name][0]
    used = {key: value for key, value in made().items() if f" {key})" in body or f" {key}," in body}
    model = model_of(f"{OPSET} g (float[2,5,{SIZE}] X) => (float[A,B,C] Y) {{ {body} }}", used)
    return model, [random(seed + 1, X=(2, 5, SIZE)) for seed in range(12)]


@pytest.mark.parametrize("name", CASES)
def test_the_division_goes_where_it_can(name: str) -> None:
    model, samples = case(name)
    changed, report = run(model, SmoothActivations(), samples)
    assert report.steps[0].counts == CASES[name][1]
    assert Counter(node.op for node in changed.graph.nodes)["Mul"] == CASES[name][2] + (name == "normalization")
    assert noise(model, changed, samples) < 1e-6
    _, report = run(changed, SmoothActivations(outlier=20), samples)
    assert not report.steps[0].changed


@pytest.mark.parametrize("name", CASES)
def test_integers_lose_less_after_it(name: str) -> None:
    model, samples = case(name)
    static = "quantize-static{calibration=min-max}"
    errors = [noise(model, run(model, p, samples)[0], samples) for p in (static, f"smooth-activations,{static}")]
    assert errors[1] < 0.6 * errors[0]


def test_what_is_even_stays() -> None:
    text = f"{OPSET} g (float[2,5,8] X) => (float[2,5,8] Y) {{ Y = MatMul(X, w) }}"
    _, report = run(model_of(text, random(0, w=(8, 8))), SmoothActivations(), [random(1, X=(2, 5, 8))])
    assert not report.steps[0].changed
    assert report.steps[0].misses == {"no channel is much larger than the others": 1}


def test_without_insertion_the_reason_is_counted() -> None:
    model, samples = case("function")
    _, report = run(model, SmoothActivations(insert=False), samples)
    assert report.steps[0].misses == {"a Mul is between products": 1}
    assert not report.steps[0].changed


def test_alpha_says_how_much_moves() -> None:
    model, samples = case("normalization")
    scales = []
    for alpha in (0.25, 0.75):
        changed, _ = run(model, SmoothActivations(alpha=alpha), samples)
        scale = next(iter(changed.graph.nodes)).inputs[1]
        assert scale is not None
        assert scale.constant is not None
        scales.append(np.abs(scale.constant.numpy()))
    assert scales[0].max() / np.median(scales[0]) > 3 * scales[1].max() / np.median(scales[1])


def test_it_needs_samples() -> None:
    with pytest.raises(InputError, match="needs samples"):
        run(case("rms")[0], SmoothActivations())


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"alpha": -0.1}, {"outlier": 0.5}])
def test_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SmoothActivations(**options)
