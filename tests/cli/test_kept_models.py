"""Commands on an artifact that contains the model, and on one that contains only its graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from graphopt import io
from tests.cli.conftest import Run
from tests.helpers import model_of

TEXT = """
<ir_version: 9, opset_import: ["" : 21]>
table (int64[N] i) => (float[N, 32] y) { e = Gather(w, i) h = MatMul(e, m) y = Relu(h) }
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(50, 32)).astype(np.float32), "m": rng.normal(size=(32, 32)).astype(np.float32)}
    path = tmp_path / "table.onnx"
    io.save(model_of(TEXT, weights), path)
    return path


def test_the_graph_is_kept_without_weights(run: Run, table: Path) -> None:
    assert run("compile", table, "-o", "t.gopt").status == 0
    assert not Path("t.gopt/model.onnx").exists()
    assert Path("t.gopt/graph.onnx").stat().st_size < 2000
    assert run("inspect", "t.gopt", "--json").json["parameters"] == 50 * 32 + 32 * 32
    assert run("diff", "t.gopt", "t.gopt", "--json").json["same"]
    assert run("verify", "t.gopt", table).status == 0
    found = run("bench", "t.gopt", "--runs", 1, "--baseline", "none", "--json").json
    assert list(found["inputs"]) == ["i"]


def test_what_needs_the_model_says_where_to_take_it_from(run: Run, table: Path) -> None:
    assert run("compile", table, "-o", "t.gopt").status == 0
    for message in (run("bench", "t.gopt").error(), run("verify", "t.gopt", "t.gopt/graph.onnx").error()):
        assert "--keep-model" in message
    assert "--baseline none" in run("bench", "t.gopt").error()


def test_a_weight_that_differs_is_seen(run: Run, table: Path) -> None:
    assert run("compile", table, "-o", "t.gopt").status == 0
    other = io.load(table)
    (tensor,) = [value.tensor for value in other.graph.initializers.values() if value.name == "m"]
    assert tensor is not None
    io.save(model_of(TEXT, {"w": np.zeros((50, 32), np.float32), "m": tensor.numpy()}), Path("other.onnx"))
    assert run("compile", "other.onnx", "-o", "o.gopt").status == 0
    assert not run("diff", "t.gopt", "o.gopt", "--json").json["same"]


def test_a_kept_model_runs(run: Run, table: Path) -> None:
    assert run("compile", table, "-o", "t.gopt", "--keep-model").status == 0
    files = json.loads(Path("t.gopt/manifest.json").read_text())["files"]
    assert "model.onnx" in files
    assert "graph.onnx" not in files
    assert run("verify", "t.gopt/model.onnx", table).status == 0
    assert set(run("bench", "t.gopt", "--runs", 1, "--json").json["timings"]) == {"graphopt", "onnxruntime"}


def test_verify_finds_an_altered_weight(run: Run, table: Path) -> None:
    assert run("compile", table, "-o", "t.gopt").status == 0
    weights = Path("t.gopt/weights.bin")
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert "weights.bin was modified" in run("verify", "t.gopt", table).error()
