"""The measure of quantized files of others, on a small network; and the steps in which differences are counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.io import to_proto
from graphopt.proof.oracle import run_reference
from tests.helpers import model_of
from tools import foreign_quantized
from tools.quantizing import agreement

CHAIN = """g (float[1,6] X) => (float[1,6] Y) {
    q = QuantizeLinear(X, s, z) x = DequantizeLinear(q, s, z) r = Mul(x, f)
    p = QuantizeLinear(r, s, z) Y = DequantizeLinear(p, s, z) }"""
NUMBERS = {"s": np.float32(0.5), "z": np.uint8(100), "f": np.float32(3)}


def chain() -> onnx.ModelProto:
    return to_proto(model_of(CHAIN, NUMBERS))


def test_steps_are_those_of_the_integers() -> None:
    assert agreement.output_steps(chain()) == {"Y": 0.5}
    wanted, found = {"Y": np.float32([0, 1, 2, 3])}, {"Y": np.float32([0.5, 1, 2.6, 3])}
    assert agreement.within_a_step(wanted, found, {"Y": 0.5}) == {"Y": (3, 4)}
    assert agreement.within_a_step(wanted, found, {"Y": None}) == {"Y": (2, 4)}
    integers = {"q": np.uint8([0, 255, 7])}
    assert agreement.within_a_step(integers, {"q": np.uint8([1, 255, 9])}, {}) == {"q": (2, 3)}


def test_a_layer_alone_computes_from_given_integers() -> None:
    inner = agreement.with_inner_values(chain())
    assert [info.name for info in inner.graph.output] == ["Y", "q", "p"]
    feed = {"X": np.float32([[-20, -1, 0, 1, 2, 300]])}
    whole = run_reference(inner, feed)
    given = {"q": whole["q"] - 1, "p": whole["p"]}
    cut = run_reference(agreement.cut_apart(inner, ["q", "p"]), {**feed, **given})
    assert np.array_equal(cut["q" + agreement.MADE], whole["q"])
    expected = np.clip((given["q"].astype(int) - 100) * 3 + 100, 0, 255)
    assert np.array_equal(cut["p" + agreement.MADE], expected)


@pytest.mark.parametrize("writer", ["ONNX Runtime s8s8, per channel"])
def test_the_mobilenet_is_measured(writer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, guide = tmp_path / "rows.json", tmp_path / "guide.md"
    guide.write_text(f"before\n<!-- made by {foreign_quantized.MARK} -->\nold\n<!-- end -->\nafter\n")
    arguments = ["mobilenet", "--writers", writer, "--target", "x86", "-o", str(out), "--docs", str(guide)]
    foreign_quantized.main(arguments)
    (row,) = json.loads(out.read_text())
    assert row["share"] > 0.9  # without dot products, depthwise convolutions stay floats by choice
    assert all("floats are faster" in reason for reason in row["reasons"])
    assert row["near"] >= foreign_quantized.LEAST_NEAR
    assert foreign_quantized.falls_short({**row, "near": 0.99})
    assert "old" not in guide.read_text()
    assert f"| MobileNetV3-like CNN | {writer} |" in guide.read_text()
