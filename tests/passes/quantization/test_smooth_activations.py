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
        {"activations divided": 2},
        0,
    ),
    "other use": (
        "n = LayerNormalization(X, s, b)  q = MatMul(n, w)  Y = Add(q, n)",
        {"activations divided by a Mul": 1},
        1,
    ),
    "factor": ("e = Mul(X, s)  Y = MatMul(e, w)", {"activations divided": 1}, 1),
    "function": ("m = Mul(X, s)  e = HardSwish(m)  Y = MatMul(e, w)", {"activations divided by a Mul": 1}, 2),
}
IMAGE = (2, 8, 6, 6)
CONVOLUTIONS = {
    "depthwise": ("a = Conv(X, u)  Y = Conv<group = 8, pads = [1, 1, 1, 1]>(a, d)", 0),
    "learned scale": ("a = Conv(X, u)  h = HardSwish(a)  m = Mul(h, f)  n = Add(m, f)  Y = Conv<group = 8>(n, d)", 1),
    "gate": (
        "a = Conv(X, u)  p = GlobalAveragePool(a)  q = Conv(p, v)  t = Sigmoid(q)  m = Mul(a, t)  Y = Conv(m, v)",
        1,
    ),
    "insertion": ("a = Conv(X, u)  h = HardSwish(a)  Y = Conv<group = 8>(h, d)", 1),
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
    _, report = run(changed, SmoothActivations(), samples)
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
    assert report.steps[0].misses == {"no division lowers the expected error much": 1}


def test_without_insertion_the_reason_is_counted() -> None:
    model, samples = case("function")
    _, report = run(model, SmoothActivations(insert=False), samples)
    assert report.steps[0].misses == {"a HardSwish is between products": 1}
    assert not report.steps[0].changed


def convolutions(name: str) -> tuple[Any, list[Feed]]:
    """Channels of the first convolution differ in size by a factor of a thousand."""
    constants = random(0, u=(8, 8, 1, 1), d=(8, 1, 3, 3), v=(8, 8, 1, 1), f=(1,))
    constants["u"] *= np.geomspace(0.1, 100, 8, dtype=np.float32).reshape(8, 1, 1, 1)
    constants["d"] /= np.geomspace(0.1, 100, 8, dtype=np.float32).reshape(8, 1, 1, 1)
    constants["v"] /= np.geomspace(0.1, 100, 8, dtype=np.float32)[:, None, None]
    body = CONVOLUTIONS[name][0]
    used = {key: value for key, value in constants.items() if f" {key})" in body}
    model = model_of(f"{OPSET} g (float[2,8,6,6] X) => (float[A,B,C,D] Y) {{ {body} }}", used)
    return model, [random(seed + 1, X=IMAGE) for seed in range(12)]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_channels_of_convolutions_become_alike(name: str) -> None:
    model, samples = convolutions(name)
    changed, report = run(model, SmoothActivations(), samples)
    assert sum(report.steps[0].counts.values()) == 1, report.steps[0].misses
    assert Counter(node.op for node in changed.graph.nodes)["Mul"] == CONVOLUTIONS[name][1]
    assert noise(model, changed, samples) < 1e-5
    static = "quantize-static{calibration=min-max}"
    errors = [noise(model, run(model, p, samples)[0], samples) for p in (static, f"smooth-activations,{static}")]
    assert errors[1] < 0.7 * errors[0]


def test_a_factor_takes_the_division_up_from_either_side() -> None:
    """A product reads what a Mul makes, and a Mul reads what is divided."""
    constants = random(0, w=(SIZE, SIZE), v=(SIZE, SIZE)) | {"s": made()["s"]}
    body = "n = Mul(X, s)  q = MatMul(n, w)  k = Mul(n, c)  Y = MatMul(k, v)"
    text = f"{OPSET} g (float[2,5,{SIZE}] X) => (float[A,B,C] Y, float[D,E,F] q) {{ {body} }}"
    model = model_of(text, constants | {"c": np.float32([2.0])})
    samples = [random(seed + 1, X=(2, 5, SIZE)) for seed in range(4)]
    changed, report = run(model, SmoothActivations(insert=False), samples)
    assert report.steps[0].counts == {"activations divided": 2}
    assert noise(model, changed, samples) < 1e-6


def test_a_square_is_not_scaled() -> None:
    constants = random(0, w=(SIZE, SIZE), u=(SIZE, SIZE))
    constants["u"][:, 5] *= 100
    text = (
        f"{OPSET} g (float[2,5,{SIZE}] X) => (float[A,B,C] Y) {{ a = MatMul(X, u)  m = Mul(a, a)  Y = MatMul(m, w) }}"
    )
    samples = [random(seed + 1, X=(2, 5, SIZE)) for seed in range(4)]
    changed, report = run(model_of(text, constants), SmoothActivations(insert=False), samples)
    assert report.steps[0].misses["a Mul multiplies scaled values with each other"] == 1
    assert not report.steps[0].changed
    assert noise(model_of(text, constants), changed, samples) == 0


def test_below_says_what_is_worth_it() -> None:
    model, samples = case("normalization")
    _, report = run(model, SmoothActivations(below=1e-6), samples)
    assert report.steps[0].misses == {"no division lowers the expected error much": 1}


def test_it_needs_samples() -> None:
    with pytest.raises(InputError, match="needs samples"):
        run(case("rms")[0], SmoothActivations())


@pytest.mark.parametrize("options", [{"below": 1.5}, {"below": 0.0}])
def test_options_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SmoothActivations(**options)
