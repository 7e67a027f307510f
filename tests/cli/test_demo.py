"""`graphopt demo` on the network that ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt import runtime
from graphopt.cli import demo
from graphopt.runtime.artifact import Artifact
from tests.cli.conftest import Run


@pytest.fixture(scope="module")
def few() -> tuple[np.ndarray, np.ndarray]:
    images, labels = demo.load_images()
    return images[:150], labels[:150]


def test_it_shows_what_the_passes_did_and_that_nothing_got_worse(run: Run) -> None:
    result = run("demo", "--runs", 3)
    assert result.status == 0
    assert "fuse-conv-bn" in result.out
    assert "9 rewritten" in result.out
    assert "accuracy on 1,000 images" in result.out
    accuracy = next(line.split()[-3:] for line in result.out.splitlines() if line.startswith("accuracy"))
    assert accuracy[0] == accuracy[1]
    assert float(accuracy[2].rstrip("%")) >= float(accuracy[0].rstrip("%")) - 1
    assert float(accuracy[0].rstrip("%")) >= 91
    assert "answers that changed: 0 of 1,000" in result.out
    assert "ONNX Runtime's time / graphopt's" in result.out


def test_for_machines_and_with_the_compiled_model_kept(
    run: Run, few: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "load_images", lambda: few)
    result = run("demo", "--json", "-o", "demo.gopt", "--runs", 2, "--threads", 2)
    assert result.status == 0
    data = result.json
    assert data["images"] == 150
    assert data["accuracy"]["before"] == data["accuracy"]["after"] > 0.85
    assert data["answers_changed"] == 0
    assert data["accuracy"]["int8"] >= data["accuracy"]["after"] - 0.02
    assert data["int8"]["bytes"]["weights"] < 0.4 * data["bytes"]["weights"]
    assert data["timings"]["graphopt int8"]["runs"] == 2
    assert 0 < data["error"] < 1e-4
    assert data["threads"] == 2
    assert data["timings"]["graphopt"]["runs"] == data["timings"]["onnxruntime"]["runs"] == 2
    assert data["ratio"] == data["timings"]["onnxruntime"]["p50"] / data["timings"]["graphopt"]["p50"]
    assert any(step["seconds"] > 0 for step in data["report"]["steps"])
    kept = Artifact.load(Path(data["artifact"]))
    assert data["bytes"]["artifact"] == kept.nbytes
    logits = runtime.load("demo.gopt").run({"image": few[0][:3]})["logits"]
    assert logits.argmax(1).tolist() == few[1][:3].tolist()


def test_a_compiled_network_that_computes_something_else_fails(
    run: Run, few: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "load_images", lambda: few)
    real = runtime.Session.run
    monkeypatch.setattr(runtime.Session, "run", lambda self, x: {k: v + 1 for k, v in real(self, x).items()})
    result = run("demo", "--runs", 1)
    assert result.status == 1
    assert "does not compute what the original does" in result.err
    assert "output 'logits'" in result.err


def test_what_is_no_artifact_is_not_overwritten(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    message = run("demo", "-o", "notes").error()
    assert "notes" in message
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"
