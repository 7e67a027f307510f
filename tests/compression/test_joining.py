"""Joining of samples: for models that compute the same for several at a time, and only for these."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.compression.joining import joined
from graphopt.proof.oracle import Reference
from tests.helpers import model_of

OPSET = '<ir_version: 10, opset_import: ["" : 21]>'
OPEN = "(float[N,4] X) => (float[N,4] Y)"


def sizes(signature: str, body: str, most: int = 3, shapes: tuple[tuple[int, ...], ...] = ((1, 4),) * 7) -> list[int]:
    """How many rows each of the joined samples has."""
    weights = {"w": np.eye(4, dtype=np.float32)} if "w)" in body else {}
    model = model_of(f"{OPSET} g {signature} {{ {body} }}", weights)
    rng = np.random.default_rng(0)
    feeds = [{"X": rng.normal(size=shape).astype(np.float32)} for shape in shapes]
    with Reference(model) as reference:
        found = joined(model.graph, reference, feeds, most)
        all_of = [np.concatenate([feed["X"].ravel() for feed in some]) for some in (feeds, found)]
        assert np.array_equal(*all_of)
        return [len(feed["X"]) for feed in found]


@pytest.mark.parametrize("body", ["Y = MatMul(X, w)", "a = Softmax(X)  Y = Relu(a)"])
def test_samples_are_joined(body: str) -> None:
    assert sizes(OPEN, body) == [3, 3, 1]
    assert sizes(OPEN, body, shapes=((2, 4),) * 3) == [6]
    assert sizes(OPEN, body, most=1) == [1] * 7


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        (OPEN, "Y = Softmax<axis=0>(X)"),
        (OPEN, "m = ReduceMax(X)  Y = Sub(X, m)"),
        (OPEN, "q, s, z = DynamicQuantizeLinear(X)  Y = DequantizeLinear(q, s, z)"),
        ("(float[1,4] X) => (float[1,4] Y)", "Y = Relu(X)"),
        ("(float[N,4] X) => (float[1,1] Y)", "Y = ReduceSum(X)"),
    ],
)
def test_what_several_samples_would_change_stays(signature: str, body: str) -> None:
    assert sizes(signature, body) == [1] * 7


def test_samples_of_different_sizes_stay() -> None:
    assert sizes("(float[N,M] X) => (float[N,M] Y)", "Y = Relu(X)", shapes=((1, 4), (1, 5), (1, 4))) == [1, 1, 1]
