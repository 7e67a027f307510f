"""`graphopt quantize` with wrong requests, a full disk, and when it is interrupted: a clear error, never a file."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphopt import io
from graphopt.compression.store import StatisticsStore
from tests.cli.conftest import Run
from tests.cli.quantizing import quantized
from tests.helpers import model_of


def test_an_interruption_during_calibration_writes_nothing(
    run: Run, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StatisticsStore, "of", interrupted)
    before = set(Path().iterdir())
    assert quantized(run, net).status == 2
    assert set(Path().iterdir()) == before


def test_a_full_disk(run: Run, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **named: object) -> None:
        raise OSError(28, "No space left on device", "int8.onnx")

    monkeypatch.setattr(io, "save", full)
    assert "int8.onnx: No space left on device" in quantized(run, net).error()
    assert not Path("int8.onnx").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "quantization needs data"),
        (["-c", "empty.npz"], "there are no samples"),
        (["-c", "nothing.npz"], "there is no such file or folder"),
        (["-c", "names.npz"], "the model has no input 'image'"),
        (["-c", "shapes.npz"], "input 'x'"),
        (["-c", "doubles.npz"], "has dtype float64, but must have float32"),
        (["-c", "nan.npz"], "contains a NaN"),
        (["-c", "samples.npz", "--validate", "high.npz"], "label 4 is not one of the 4 classes of output 'y'"),
        (["-c", "samples.npz", "--validate", "floats.npz"], "'labels' are float64, not integers"),
        (["-c", "samples.npz", "--validate", "few.npz"], "rows for 20 samples"),
        (["-c", "samples.npz", "--metric", "failing:metric"], "the metric 'failing:metric' raised ValueError: no"),
        (["-c", "samples.npz", "--metric", "failing:nothing"], "is not a number for the original"),
        (["-c", "samples.npz", "--max-drop", "2"], "would accept anything"),
        (["-c", "samples.npz", "--scheme", "int3"], "there is no scheme 'int3'"),
        (["-c", "samples.npz", "--profile", "tensort"], "there is no profile 'tensort'"),
        (["-c", "samples.npz", "--method", "best"], "there is no calibration 'best'"),
        (["-c", "samples.npz", "--activations", "int4"], "activations must be uint8 or int8"),
        (["-c", "samples.npz", "--passes", "default"], "no pass of 'default' quantizes anything"),
        (["-c", "samples.npz", "--scheme", "float16", "--symmetric"], "has no option 'symmetric'"),
        (["-c", "samples.npz", "--ignore", "*"], "there is nothing to quantize"),
        (["-c", "samples.npz", "--cost", "money"], "there is no cost table 'money'"),
        (["-c", "samples.npz", "--statistics", "samples.npz"], "cannot be read as activation statistics"),
        (["-c", "samples.npz", "-o", "no/where.onnx"], "nothing can be written there"),
    ],
)
def test_bad_requests(words: list[str], message: str, run: Run, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.load("samples.npz")["x"]
    labels = np.arange(20) % 4
    np.savez("empty.npz", x=x[:0])
    np.savez("names.npz", image=x)
    np.savez("shapes.npz", x=x[:, :2])
    np.savez("doubles.npz", x=x.astype(np.float64))
    np.savez("nan.npz", x=np.where(np.arange(8) == 3, np.nan, x).astype(np.float32))
    np.savez("high.npz", x=x, labels=np.arange(20) % 5)
    np.savez("floats.npz", x=x, labels=labels.astype(np.float64))
    np.savez("few.npz", x=x, labels=labels[:7])
    Path("failing.py").write_text(
        "def metric(got, wanted):\n    raise ValueError('no')\ndef nothing(got, wanted):\n    return float('nan')\n"
    )
    monkeypatch.syspath_prepend(str(Path().resolve()))
    assert message in run("quantize", net, "-o", "int8.onnx", *words).error()
    assert not Path("int8.onnx").exists()


def test_what_is_quantized_already(run: Run, net: Path) -> None:
    assert quantized(run, net).status == 0
    error = run("quantize", "int8.onnx", "-o", "twice.onnx", "-c", "samples.npz").error()
    assert "is quantized already" in error


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("int8", "there is nothing to quantize (it has no convolution or matmul)"),
        ("int8-dynamic", "there is nothing to quantize"),
        ("int4-weights", "there are no weights to quantize"),
    ],
)
def test_a_model_with_nothing_to_quantize(scheme: str, message: str, run: Run) -> None:
    io.save(model_of("relu (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"), "relu.onnx")
    np.savez("samples.npz", x=np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32))
    result = run("quantize", "relu.onnx", "-o", "o.onnx", "-c", "samples.npz", "--scheme", scheme)
    assert message in result.error()
    assert not Path("o.onnx").exists()


def command(script: str, net: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, after a script."""
    main = f"from graphopt.cli.app import main\n{script}\nmain()"
    given = ["quantize", str(net), "-o", "int8.onnx", "-c", "samples.npz", *words]
    return subprocess.run([sys.executable, "-c", main, *given], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("words", [[], ["--max-drop", "0.1%"]])
def test_a_disk_that_is_full_when_the_result_is_written(words: list[str], net: Path) -> None:
    """A limit on the size of files is a full disk to the process."""
    there = {path.name for path in Path().iterdir()}
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    done = command(limit, net, *words)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    left = {path.name for path in Path().rglob("*")} - there
    assert not [name for name in left if name not in ("int8.onnx.search", "state.json")], left


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_search_goes_on(number: signal.Signals, run: Run, net: Path) -> None:
    script = f"""
import os
from graphopt.driver.mixed_precision import Folder
save = Folder.save
def killed(self, best=None):
    save(self, best)
    if len(self.noise) == 2:
        os.kill(os.getpid(), {int(number)})
Folder.save = killed
"""
    limit = ("--max-drop", "0.2%", "--metric", "error-mean")
    done = command(script, net, *limit)
    assert done.returncode == (-number if number is signal.SIGKILL else 128 + number), done.stderr
    assert not Path("int8.onnx").exists()
    result = quantized(run, net, *limit)
    assert result.status == 0, result.err
    assert "layer 1 of 3" not in result.err
    assert "layer 3 of 3" in result.err
    assert not Path("int8.onnx.search").exists()
