"""awq: results stay, and weights of few bits lose less where some channels of the data are large."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from graphopt.errors import InputError
from graphopt.passes.quantization.awq import Awq
from tests.helpers import model_of
from tests.passes.quantization.measuring import OPSET, Feed, noise, random, run

SIZE = 64
CASES = {
    "normalization": (
        "n = LayerNormalization(X, s, b)  q = MatMul(n, w)  k = MatMul(n, v)  t = Softmax(q)  Y = Mul(t, k)"
    ),
    "function": "m = Mul(X, s)  e = HardSwish(m)  Y = MatMul(e, w)",
}


def case(name: str, large: float = 30) -> tuple[Any, list[Feed]]:
    constants = random(0, w=(SIZE, SIZE), v=(SIZE, SIZE), b=(SIZE,), s=(SIZE,))
    constants["s"] = np.ones(SIZE, np.float32)
    constants["s"][[3, 17, 40]] = large
    body = CASES[name]
    used = {key: value for key, value in constants.items() if f" {key})" in body or f" {key}," in body}
    model = model_of(f"{OPSET} g (float[2,9,{SIZE}] X) => (float[A,B,C] Y) {{ {body} }}", used)
    return model, [random(seed + 1, X=(2, 9, SIZE)) for seed in range(12)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("options", ["bits=4", "bits=3 group=16 symmetric=true", "bits=4 group=0"])
def test_weights_of_few_bits_lose_less(name: str, options: str) -> None:
    model, samples = case(name)
    scaled, report = run(model, f"awq{{{options}}}", samples)
    how = "activations divided" + (" by a Mul" if name == "function" else "")
    assert report.steps[0].counts == {how: 1}
    assert Counter(node.op for node in scaled.graph.nodes)["Mul"] == (2 if name == "function" else 1)
    assert noise(model, scaled, samples) < 1e-5
    passes = [f"quantize-weights{{{options}}}", f"awq{{{options}}},quantize-weights{{{options}}}"]
    errors = [noise(model, run(model, p, samples)[0], samples) for p in passes]
    assert errors[1] < 0.8 * errors[0]


def test_even_channels_stay() -> None:
    text = f"{OPSET} g (float[40,{SIZE}] X) => (float[A,B] Y) {{ Y = Gemm<transB=1>(X, w) }}"
    model = model_of(text, random(0, w=(SIZE, SIZE)))
    feed = np.where(np.random.default_rng(0).random((40, SIZE)) < 0.5, -1, 1).astype(np.float32)
    _, report = run(model, Awq(), [{"X": feed}])
    assert not report.steps[0].changed
    assert report.steps[0].misses == {"no power lowers the error of the rounded products": 1}


def test_without_insertion_the_reason_is_counted() -> None:
    model, samples = case("function")
    _, report = run(model, Awq(insert=False), samples)
    assert report.steps[0].misses == {"a HardSwish is between products": 1}
    assert not report.steps[0].changed


def test_it_needs_samples() -> None:
    with pytest.raises(InputError, match="needs samples"):
        run(case("function")[0], Awq())


@pytest.mark.parametrize("options", [{"bits": 1}, {"group": 1}])
def test_options_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Awq(**options)
