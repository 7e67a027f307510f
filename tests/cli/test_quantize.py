"""`graphopt quantize`: the file, the report, statistics, the budget and its search, and bad requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from graphopt import io
from graphopt.compression.statistics import ActivationStatistics
from graphopt.compression.store import StatisticsStore
from graphopt.driver.mixed_precision import Folder
from graphopt.ir import Model
from tests.cli.conftest import Result, Run
from tests.helpers import model_of

NET = """<ir_version: 10, opset_import: ["" : 21]> net (float[N,3,8,8] x) => (float[N,4] y) {
    [first] a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) [second] c = Conv<strides=[2,2]>(r, w2) s = Relu(c)
    m = GlobalAveragePool(s) f = Flatten(m) [last] y = Gemm<transB=1>(f, w3) }"""


def network() -> Model:
    """A small classifier whose second layer suffers from 8 bits: few large channels hide the others."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "w3": (4, 8)}
    weights = {name: rng.normal(size=shape, scale=0.4).astype(np.float32) for name, shape in shapes.items()}
    weights["w1"][0] *= 100
    weights["w2"][:, 0] /= 100
    return model_of(NET, weights)


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


def quantized(run: Run, net: Path, *words: object) -> Result:
    return run("quantize", net, "-o", "int8.onnx", "-c", "samples.npz", *words)


def integers(path: str = "int8.onnx") -> int:
    """The number of products with integer weights."""
    return sum(
        node.op in ("Conv", "Gemm") and node.inputs[1].producer is not None for node in io.load(path).graph.nodes
    )  # type: ignore[union-attr]


def test_the_file_and_its_report(run: Run, net: Path) -> None:
    result = quantized(run, net, "--validate", "labelled.npz", "--json")
    assert result.status == 0, result.err
    facts = result.json
    assert integers() == 3
    assert facts["metric"]["metric"] == "accuracy"
    assert facts["metric"]["before"] == 1.0
    assert facts["metric"]["cases"] == 20
    assert facts["quantized"] == {"layers": 3, "of": 3, "flops_share": 1.0}
    assert facts["files"] == {"before": net.stat().st_size, "after": Path("int8.onnx").stat().st_size}
    assert "quantize-static: run 1 of 1, sample 1" in result.err
    again = run("optimize", net, "-o", "again.onnx", "-p", facts["pipeline"], "--samples", "samples.npz")
    assert again.status == 0, again.err
    assert Path("again.onnx").read_bytes() == Path("int8.onnx").read_bytes()


def test_what_stays_a_float_is_named_with_the_reason(run: Run, net: Path) -> None:
    result = quantized(run, net, "--ignore", "first", "--ignore", "Gemm", "--symmetric", "--activations", "int8")
    assert result.status == 0, result.err
    rows = [line for line in result.out.splitlines() if "it is to be left alone" in line and "float32" in line]
    assert [row.split()[1] for row in rows] == ["'first'", "'last'"]
    assert "activations=int8 symmetric=true ignore=[first, Gemm]" in result.out
    assert "error-mean on 20 cases" in result.out
    assert integers() == 1


@pytest.mark.parametrize("profile", ["portable", "onnxruntime", "openvino", "tensorrt"])
def test_profiles(profile: str, run: Run, net: Path) -> None:
    assert quantized(run, net, "--profile", profile).status == 0
    model = io.load("int8.onnx")
    pairs = [node for node in model.graph.nodes if node.op == "QuantizeLinear"]
    points = [node.inputs[2].constant.numpy() for node in pairs]  # type: ignore[union-attr]
    assert {point.dtype.name for point in points} == {"int8" if profile in ("portable", "tensorrt") else "uint8"}
    if profile in ("portable", "tensorrt"):
        assert not any(point.any() for point in points)
    biases = [node.inputs[2] for node in model.graph.nodes if node.op == "Conv" and len(node.inputs) > 2]
    assert [bias.constant is None for bias in biases if bias is not None] == [profile != "tensorrt"]
    feed = {"x": np.load("samples.npz")["x"]}
    session = onnxruntime.InferenceSession("int8.onnx", providers=["CPUExecutionProvider"])
    assert np.isfinite(session.run(None, feed)[0]).all()
    openvino = pytest.importorskip("openvino") if profile == "openvino" else None
    if openvino is not None:
        assert np.isfinite(openvino.Core().compile_model("int8.onnx", "CPU")(feed)[0]).all()


def test_statistics_are_saved_reused_and_merged(run: Run, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = quantized(run, net, "--save-statistics", "s.npz", "--method", "min-max")
    assert first.status == 0, first.err
    saved = Path("int8.onnx").read_bytes()
    known = ("quantize", net, "-o", "int8.onnx", "--validate", "labelled.npz", "--statistics", "s.npz")
    assert run(*known, "--method", "min-max").status == 0
    assert Path("int8.onnx").read_bytes() == saved
    assert run(*known, "--method", "entropy").status == 0  # all kinds were saved
    x = np.load("samples.npz")["x"]
    np.savez("more.npz", x=3 * x[:10])
    merged = run(*known, "-c", "more.npz", "--save-statistics", "merged.json", "--method", "min-max")
    assert merged.status == 0, merged.err
    both, one = (ActivationStatistics.load(Path(name)) for name in ("merged.json", "s.npz"))
    assert (both.samples, one.samples) == (30, 20)
    assert both.values["x"]["range"].high > one.values["x"]["range"].high  # type: ignore[attr-defined]


def test_statistics_of_another_model(run: Run, net: Path) -> None:
    assert quantized(run, net, "--save-statistics", "s.npz").status == 0
    other = network()
    io.save(model_of(NET, {n: 2 * v.tensor.numpy() for n, v in other.graph.initializers.items()}), "other.onnx")  # type: ignore[union-attr]
    words = ("quantize", "other.onnx", "-o", "o.onnx", "--statistics", "s.npz")
    assert "statistics are of another model" in run(*words, "-c", "samples.npz").error()
    assert "statistics are of another model" in run(*words, "--validate", "labelled.npz").error()
    assert not Path("o.onnx").exists()


def limit_between(run: Run, net: Path) -> tuple[str, Any]:
    """A budget that all layers in 8 bits miss, and some keep."""
    facts = quantized(run, net, "--sensitivity", "--json").json
    return f"{facts['metric']['loss'] / 2:.6f}", facts


def test_a_budget_is_met_with_the_layers_that_cost_least(run: Run, net: Path) -> None:
    limit, facts = limit_between(run, net)
    noise = {layer["layer"]: layer["noise"] for layer in facts["sensitivity"]["layers"]}
    assert list(noise) == sorted(noise, key=lambda name: -noise[name])
    result = quantized(run, net, "--max-drop", limit, "--picture", "p.svg", "--json")
    assert result.status == 0, result.err
    found = result.json
    assert found["metric"]["loss"] <= float(limit)
    assert 0 < found["quantized"]["layers"] < 3
    assert integers() == found["quantized"]["layers"]
    assert Path("p.svg").read_text().count("dB</text>") == 3
    assert not Path("int8.onnx.search").exists()
    again = run("optimize", net, "-o", "again.onnx", "-p", found["pipeline"], "--samples", "samples.npz")
    assert again.status == 0, again.err
    assert Path("again.onnx").read_bytes() == Path("int8.onnx").read_bytes()


def test_a_budget_that_cannot_be_met_keeps_the_best(run: Run, net: Path) -> None:
    result = quantized(run, net, "--max-drop", "0.0000001", "--json")
    assert result.status == 1
    assert "but only 0.000% may be lost" in result.err
    facts = json.loads(result.out)
    assert facts["metric"]["met"] is False
    assert integers() == facts["quantized"]["layers"] > 0


def test_an_interrupted_search_goes_on(run: Run, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, _ = limit_between(run, net)
    Path("int8.onnx").unlink()
    save, calls = Folder.save, []

    def interrupted(self: Folder, best: Model | None = None) -> None:
        save(self, best)
        calls.append(len(self.noise))
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Folder, "save", interrupted)
    stopped = quantized(run, net, "--max-drop", limit)
    assert stopped.status == 2
    assert "continue the search" in stopped.err
    assert not Path("int8.onnx").exists()
    result = quantized(run, net, "--max-drop", limit)
    assert result.status == 0, result.err
    assert calls[:3] == [1, 2, 3]  # the first two layers are not measured again
    assert "layer 1 of 3" not in result.err


def test_a_folder_of_somebody_else_is_not_removed(run: Run, net: Path) -> None:
    limit, _ = limit_between(run, net)
    Path("int8.onnx.search").mkdir()
    Path("int8.onnx.search/notes.txt").write_text("mine")
    assert quantized(run, net, "--max-drop", limit).status == 0
    assert [path.name for path in Path("int8.onnx.search").iterdir()] == ["notes.txt"]


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
        (["-c", "samples.npz", "--picture", "p.svg"], "--picture draws the sensitivity"),
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


def test_data_that_look_wrong(run: Run, net: Path) -> None:
    x = np.load("samples.npz")["x"]
    np.savez("same.npz", x=np.repeat(x[:1], 4, axis=0))
    result = run("quantize", net, "-o", "o.onnx", "-c", "same.npz", "--validate", "labelled.npz")
    assert result.status == 0
    assert "warning: there are only 4 samples" in result.err
    assert "warning: the first 4 samples are all the same" in result.err
    np.savez("wrong.npz", x=x, labels=(np.load("labelled.npz")["labels"] + 1) % 4)
    result = quantized(run, net, "--validate", "wrong.npz")
    assert "warning: the validation set has the inputs of the calibration" in result.err


def test_samples_unlike_those_of_the_training(run: Run) -> None:
    text = "net (float[N,3,8,8] x) => (float[N,4,6,6] y) { c = Conv(x, w) y = BatchNormalization(c, g, b, m, v) }"
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    power = np.square(w).sum((1, 2, 3)) / 12  # the variance for inputs that are uniform from 0 to 1
    means = w.sum((1, 2, 3)) / 2
    weights = {"w": w, "g": np.ones(4, np.float32), "b": np.zeros(4, np.float32), "m": means, "v": power}
    io.save(model_of(text, weights), "bn.onnx")
    x = rng.random((16, 3, 8, 8)).astype(np.float32)
    np.savez("right.npz", x=x)
    np.savez("bytes.npz", x=255 * x)
    right, wrong = (run("quantize", "bn.onnx", "-o", "o.onnx", "-c", name) for name in ("right.npz", "bytes.npz"))
    assert (right.status, wrong.status) == (0, 0), (right.err, wrong.err)
    assert "not like those of the training" not in right.err
    assert "not like those of the training: at BatchNormalization" in wrong.err


def test_schemes_that_need_no_samples(run: Run, net: Path) -> None:
    for scheme in ("int4-weights", "int8-dynamic", "float16"):
        words = ["-c", "samples.npz"] if scheme == "float16" else []
        result = run(
            "quantize", net, "-o", "o.onnx", "--validate", "labelled.npz", "--scheme", scheme, "--json", *words
        )
        assert result.status == 0, (scheme, result.err)
        assert result.json["quantized"]["layers"] > 0, scheme
