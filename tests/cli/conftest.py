"""Run commands in the test's own process, in an empty folder, with small models available."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from graphopt import io, registry
from graphopt.cli.app import run_command
from tests.cli.quantizing import network
from tests.helpers import model_of

MLP = "mlp (float[N,4] x) => (float[N,3] y) { t = MatMul(x, w)  u = Add(t, b)  y = Relu(u) }"


@dataclass(frozen=True)
class Result:
    """The result of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its JSON document; standard output must hold nothing else."""
        return json.loads(self.out)

    def error(self) -> str:
        """The message of a wrong request: one error on stderr, nothing on stdout, no traceback."""
        assert self.status == 2, (self.status, self.err)
        assert self.err.count("error: ") == 1, self.err
        assert not self.out
        return self.err[self.err.index("error: ") :]


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """`run("compile", "m.onnx", ...)`, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRAPHOPT_TRACEBACK", raising=False)
    monkeypatch.setattr(registry, "_loaded", [])  # passes of --load are the process's: each test has its own

    def run(*args: object) -> Result:
        capfd.readouterr()
        status = run_command([str(arg) for arg in args])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    """A perceptron with a dynamic batch: x float32[N,4] to y float32[N,3]."""
    path = tmp_path / "mlp.onnx"
    io.save(model_of(MLP, mlp_weights()), path)
    return path


def mlp_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"w": rng.normal(size=(4, 3)).astype(np.float32), "b": np.float32([0.5, -0.5, 0.1])}


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The perceptron, compiled once for all tests of the commands that take an artifact."""
    folder = tmp_path_factory.mktemp("compiled")
    io.save(model_of(MLP, mlp_weights()), folder / "mlp.onnx")
    assert run_command(["compile", str(folder / "mlp.onnx"), "-o", str(folder / "mlp.gopt")]) == 0
    return folder / "mlp.gopt"


@pytest.fixture
def net(run: Run) -> Path:
    """The network, samples, and its own answers as labels."""
    rng = np.random.default_rng(1)
    model = network()
    io.save(model, "net.onnx")
    x = rng.normal(size=(40, 3, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    labels = session.run(None, {"x": x})[0].argmax(1)
    np.savez("samples.npz", x=x[:20])
    np.savez("labelled.npz", x=x[20:], labels=labels[20:])
    return Path("net.onnx")
