"""`graphopt bench --profile`: table, JSON, picture."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from graphopt import io
from graphopt.driver.backend import Peak
from graphopt.targets.tvm import TvmBackend
from tests.cli.conftest import Run
from tests.helpers import model_of


@pytest.fixture(autouse=True)
def known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose speed is known and need not be measured."""
    peak = Peak(flops=1e11, bytes=2e10, products=4e11)
    monkeypatch.setattr(TvmBackend, "peak", lambda self, target, threads: peak)


@pytest.fixture
def fixed(run: Run) -> Path:
    """A compiled model of fixed sizes, so that its work is known."""
    text = "fixed (float[8,64] x) => (float[8,64] y) { [double] t = Add(x, x) [norm] y = Softmax(t) }"
    io.save(model_of(text), Path("fixed.onnx"))
    assert run("compile", "fixed.onnx", "-o", "fixed.gopt", "--keep-model").status == 0
    return Path("fixed.gopt")


def test_the_table_names_the_models_layers(run: Run, fixed: Path) -> None:
    text = run("bench", fixed, "--runs", 3, "--baseline", "none", "--profile").out
    assert "graphopt" in text
    lines = text[text.index("kernels:") :].splitlines()
    assert "peak 100 GFLOP/s, 400 GOP/s on bytes, memory 20.0 GB/s" in lines[0]
    assert lines[1].split()[:2] == ["layers", "kernel"]
    assert any(line.startswith(("double", "norm")) for line in lines)
    assert any("%" in line for line in lines[3:])


def test_json_has_every_kernel(run: Run, fixed: Path) -> None:
    found = run("bench", fixed, "--runs", 3, "--profile", "--top", 1, "--threads", 1, "--json").json
    assert set(found["timings"]) == {"graphopt", "onnxruntime"}
    told = found["profile"]
    assert {name for entry in told["kernels"] for name in entry["layers"]} == {"double", "norm"}
    assert sum(entry["share"] for entry in told["kernels"]) == pytest.approx(1)
    assert sum(entry["seconds"] for entry in told["kernels"]) == pytest.approx(told["kernel_seconds"])
    assert sum(entry["flops"] for entry in told["kernels"]) == pytest.approx(6 * 8 * 64, abs=2)
    assert told["peak"] == {"flops": 1e11, "bytes": 2e10, "products": 4e11}
    assert told["threads"] == 1


def test_kernels_beyond_the_top_are_one_row(run: Run) -> None:
    text = """chain (float[N,8] x) => (float[N,8] y) {
        [first] a = MatMul(x, w) [norm] b = Softmax(a) [second] c = MatMul(b, w) [sum] d = ReduceSum(c)
        [scale] y = Mul(c, d)
    }"""
    io.save(model_of(text, {"w": np.ones((8, 8), np.float32)}), Path("chain.onnx"))
    assert run("compile", "chain.onnx", "-o", "chain.gopt").status == 0
    request = ("bench", "chain.gopt", "--runs", 3, "--baseline", "none", "--profile", "--top", 1)
    count = len(run(*request, "--json").json["profile"]["kernels"])
    assert count > 1
    text = run(*request).out
    rows = text[text.index("kernels:") :].splitlines()[3:]
    assert rows[1].startswith(f"{count - 1} other")
    assert "open sizes" in text


def test_the_picture_is_written(run: Run, fixed: Path) -> None:
    result = run("bench", fixed, "--runs", 3, "--baseline", "none", "--profile", "--picture", "out.svg")
    assert "wrote out.svg" in result.out
    assert ET.parse("out.svg").getroot().tag.endswith("svg")
    assert "norm" in Path("out.svg").read_text()


def test_wrong_requests(run: Run, fixed: Path) -> None:
    assert "Add --profile" in run("bench", fixed, "--picture", "out.svg").error()
    request = ("bench", fixed, "--runs", 1, "--baseline", "none", "--profile")
    result = run(*request, "--picture", "nowhere/out.svg")
    assert result.status == 2
    assert "nowhere/out.svg" in result.err
    shutil.copytree(fixed, "old.gopt")
    Path("old.gopt/kernels.json").write_text("{}")
    assert "kernels.json" in run("bench", "old.gopt", "--profile").error()


def test_an_artifact_that_does_not_list_its_kernels(run: Run, fixed: Path) -> None:
    """As an older graphopt wrote it: it runs, and cannot be profiled."""
    (fixed / "kernels.json").unlink()
    manifest = json.loads((fixed / "manifest.json").read_text())
    del manifest["files"]["kernels.json"]
    (fixed / "manifest.json").write_text(json.dumps(manifest))
    assert run("bench", fixed, "--runs", 1, "--baseline", "none").status == 0
    assert "compile the model again" in run("bench", fixed, "--baseline", "none", "--profile", "--json").error()
