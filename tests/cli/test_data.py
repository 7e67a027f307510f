"""Samples, validation sets, metrics and budgets on the command line, with a lossy pass of a user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt import io
from tests import lossy
from tests.cli.conftest import Run
from tests.helpers import model_of

PASS = str(Path(lossy.__file__))
NET = """net (float[N,8] x) => (float[N,4] y)
    { [first] a = MatMul(x, u) [act] b = Relu(a) [second] y = MatMul(b, v) }"""


@pytest.fixture
def net(run: Run) -> Path:
    """A small classifier, samples of it, and its own answers as labels."""
    rng = np.random.default_rng(0)
    weights = {"u": rng.normal(size=(8, 16)).astype(np.float32), "v": rng.normal(size=(16, 4)).astype(np.float32)}
    x = rng.normal(size=(60, 8)).astype(np.float32)
    labels = (np.maximum(x @ weights["u"], 0) @ weights["v"]).argmax(axis=1)
    io.save(model_of(NET, weights), "net.onnx")
    np.savez("samples.npz", x=x)
    np.savez("answers.npz", x=x, labels=labels)
    return Path("net.onnx")


def weights_of(path: str) -> dict[str, int]:
    """Return the number of distinct values of each weight."""
    model = io.load(path)
    return {name: len(np.unique(value.tensor.numpy())) for name, value in model.graph.initializers.items()}


def test_a_lossy_pass_within_its_budget(run: Run, net: Path) -> None:
    words = ["--load", PASS, "--samples", "samples.npz", "--max-drop", "10%"]
    result = run("optimize", net, "-o", "o.onnx", "-p", "round-weights{levels=64}", *words, "--verify", "--json")
    assert result.status == 0, result.err
    report = result.json["report"]
    assert 0 < report["loss"] < 0.1
    assert report["fidelity"] == "lossy"
    assert report["steps"][0]["counts"] == {"rounded": 2}
    assert max(weights_of("o.onnx").values()) <= 65
    shown = run("optimize", net, "-o", "o.onnx", "-p", "round-weights{levels=64}", *words[2:])
    assert "loss of lossy passes: " in shown.out


def test_steps_over_the_budget_are_taken_back_and_told(run: Run, net: Path) -> None:
    words = ["--load", PASS, "--samples", "samples.npz", "--max-drop", "0.05%", "--json"]
    result = run("optimize", net, "-o", "o.onnx", "-p", "round-weights{levels=4}", *words)
    assert result.status == 0, result.err
    assert result.json["report"]["steps"][0]["misses"] == {"the budget does not allow it": 2}
    assert weights_of("o.onnx") == {"u": 128, "v": 64}


def test_a_pass_that_does_not_look_is_stopped_at_the_budget(run: Run, net: Path) -> None:
    words = ["--load", PASS, "--validate", "answers.npz", "--metric", "accuracy", "--max-drop", "1%"]
    pipeline = "round-weights{levels=2 careful=false layers=[first, second]}"
    result = run("optimize", net, "-o", "o.onnx", "-p", pipeline, *words, "--reproducer", "failed")
    assert result.status == 1
    assert "round-weights loses too much: " in result.err
    assert "of accuracy against the original, but only 1.000% may be lost" in result.err
    assert not Path("o.onnx").exists()
    (readme,) = Path("failed").rglob("README.txt")
    assert f"--validate {Path('answers.npz').resolve()} --metric accuracy --max-drop 0.01" in readme.read_text()
    assert run("optimize", net, "-o", "o.onnx", "-p", "round-weights{levels=64 careful=false}", *words[2:]).status == 0


def test_compiled_code_is_held_against_the_optimized_model(run: Run, net: Path) -> None:
    words = ["--load", PASS, "--samples", "samples.npz", "--max-drop", "20%", "--metric", "error-mean", "--verify"]
    pipeline = "round-weights{levels=16},default"
    result = run("compile", net, "-o", "net.gopt", "-p", pipeline, *words, "--json")
    assert result.status == 0, result.err
    facts = result.json
    assert facts["report"]["pipeline"] == "round-weights,default,layout"
    assert facts["report"]["measured"]["samples"] == 60
    figures = facts["report"]["measured"]["outputs"]["y"]
    assert figures["elements"] == 240
    assert 1e-3 < figures["mean"] < figures["p99"] <= figures["max"] == facts["manifest"]["error"]["y"]


def test_verify_tells_mean_percentile_and_largest_error_over_samples(run: Run, net: Path) -> None:
    model = io.load(net)
    changed = model_of(NET, {n: v.tensor.numpy() * np.float32(1.001) for n, v in model.graph.initializers.items()})
    io.save(changed, "changed.onnx")
    result = run("verify", "changed.onnx", net, "--samples", "samples.npz", "--tolerance", "0.01", "--json")
    assert result.status == 0, result.err
    output = result.json["outputs"]["y"]
    assert result.json["samples"] == 60
    assert 0 < output["mean"] < output["p99"] <= output["error"] == pytest.approx(2e-3, rel=0.01)
    table = run("verify", "changed.onnx", net, "--samples", "samples.npz", "--tolerance", "0.01").out
    assert "99 %" in table
    assert "for 60 inputs" in table
    assert run("verify", "changed.onnx", net, "--samples", "samples.npz").status == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-drop", "1%"], "--max-drop needs data, and none is given"),
        (["--metric", "sqnr"], "--metric needs data"),
        (["--samples", "samples.npz", "--metric", "accuracy"], "needs expected results"),
        (["--samples", "samples.npz", "--metric", "sqrn"], "did you mean 'sqnr'?"),
        (["--samples", "samples.npz", "--max-drop", "all"], "cannot read 'all' as a loss"),
        (["--samples", "nothing.npz"], "there is no such file or folder"),
        (["--samples", "samples.npz", "--inputs", "samples.npz", "--verify"], "contradict each other"),
        (["--validate", "samples.npz"], "has no expected results"),
        (["--samples", "samples.npz", "--preprocess", "imagenet"], "there is a preprocessing rule"),
    ],
)
def test_wrong_requests_on_data(words: list[str], message: str, run: Run, net: Path) -> None:
    assert message in run("optimize", net, "-o", "o.onnx", *words).error()


def test_a_pass_that_needs_a_budget_says_so(run: Run, net: Path) -> None:
    error = run("optimize", net, "-o", "o.onnx", "-p", "round-weights", "--load", PASS).error()
    assert "this pass needs budget" in error
    assert "--max-drop" in error
