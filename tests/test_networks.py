"""The trained networks that ship with the tests: what they are, and that graphopt compiles them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.proof.oracle import run_reference
from tests.fashion import FOLDER, MOBILENET, NETWORKS, VIT, labelled


@pytest.mark.parametrize(("path", "right"), [(MOBILENET, 0.88), (VIT, 0.87)], ids=["mobilenet", "vit"])
def test_a_network_is_small_and_right(path: Path, right: float) -> None:
    assert path.stat().st_size < 1_500_000
    onnx.checker.check_model(str(path), full_check=True)
    images, classes = labelled(1000)
    logits = np.asarray(run_reference(path, {"image": images})["logits"])
    assert logits.shape == (1000, 10)
    assert (logits.argmax(1) == classes).mean() >= right


def test_the_mobilenet_has_what_is_hard_to_quantize() -> None:
    found = Counter(node.op_type for node in onnx.load(MOBILENET).graph.node)
    assert found["BatchNormalization"] == 16
    assert {"HardSwish", "HardSigmoid", "Mul", "Add", "ReduceMean"} <= found.keys()
    convolutions = [node for node in onnx.load(MOBILENET).graph.node if node.op_type == "Conv"]
    assert sum(a.name == "group" and a.i > 1 for node in convolutions for a in node.attribute) == 5


def test_the_transformer_has_six_layers() -> None:
    found = Counter(node.op_type for node in onnx.load(VIT).graph.node)
    assert found["Softmax"] == 6
    assert found["LayerNormalization"] == 13
    assert found["Gelu"] == 6


@pytest.mark.parametrize("name", ["mobilenet", "vit"])
def test_compiled_it_computes_what_onnx_runtime_does(name: str) -> None:
    artifact = graphopt.compile(NETWORKS[name])
    for count in (1, 3):
        images, _ = labelled(count)
        wanted = run_reference(NETWORKS[name], {"image": images})["logits"]
        assert np.allclose(artifact.run({"image": images})["logits"], wanted, rtol=1e-4, atol=1e-4)


def test_the_licence_of_the_data_ships_with_them() -> None:
    assert "Zalando" in (FOLDER / "LICENSE.fashion-mnist").read_text()
