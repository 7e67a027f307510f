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
from graphopt.driver.mixed_precision import Folder
from graphopt.errors import CompileError
from graphopt.ir import Model
from graphopt.proof.oracle import run_reference
from graphopt.rewriting.rewriter import Rewriter
from tests.cli.conftest import Run
from tests.cli.quantizing import NET, integers, network, quantized
from tests.helpers import model_of


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


def test_the_errors_of_layers_are_those_of_their_results(run: Run, net: Path) -> None:
    result = quantized(run, net, "--json", "--picture", "p.svg")
    assert result.status == 0, result.err
    found = {one["layer"]: one["sqnr"] for one in result.json["errors"]}
    names = {"first": "a", "second": "c", "last": "y"}
    assert list(found) == list(names)
    x = {"x": np.load("samples.npz")["x"]}
    for layer, value in names.items():
        floats, integers = (outputs_of(path, value, x) for path in ("net.onnx", "int8.onnx"))
        noise = np.square(floats - integers).sum() / np.square(floats).sum()
        assert found[layer] == pytest.approx(-10 * np.log10(noise), rel=1e-3)
    drawn = Path("p.svg").read_text()
    assert "errors of the results of layers" in drawn
    assert drawn.count("dB</text>") == 3
    text = quantized(run, net).out
    rows = [line.split()[1] for line in text[text.index("results of layers") :].splitlines()[3:6]]
    assert rows == [f"'{name}'" for name in sorted(found, key=found.__getitem__)]


def outputs_of(path: str, value: str, feed: dict[str, np.ndarray]) -> np.ndarray:
    model = io.load(path)
    found = model.graph.find(value)
    assert found is not None
    Rewriter(model.graph).set_outputs([found])
    return np.asarray(run_reference(model, feed)[value], np.float64)


def test_with_labels_the_loss_of_each_layer_is_measured(run: Run, net: Path) -> None:
    result = quantized(run, net, "--validate", "labelled.npz", "--sensitivity", "--json")
    assert result.status == 0, result.err
    found = result.json["sensitivity"]
    assert (found["metric"], found["cases"]) == ("accuracy", 20)
    for layer in found["layers"]:
        others = [word for name in ("first", "second", "last") if name != layer["layer"] for word in ("--ignore", name)]
        alone = quantized(run, net, "--validate", "labelled.npz", "--json", *others).json
        assert layer["loss"] == pytest.approx(alone["metric"]["loss"]), layer


def test_the_speed_is_measured_on_request(run: Run, net: Path) -> None:
    result = quantized(run, net, "--speed", "--json")
    assert result.status == 0, result.err
    speed = result.json["speed"]
    assert speed["ratio"] == pytest.approx(speed["before"]["p50"] / speed["after"]["p50"])
    assert speed["before"]["runs"] > 2
    assert quantized(run, net, "--json").json["speed"] is None


def test_a_model_that_cannot_be_compiled_is_quantized_all_the_same(
    run: Run, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **named: object) -> None:
        raise CompileError("no such kernel")

    monkeypatch.setattr("graphopt.driver.speed.compile", fails)
    result = quantized(run, net, "--speed")
    assert result.status == 0
    assert "warning: the speed could not be measured: no such kernel" in result.err
    assert integers() == 3


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
    predicted = found["predicted"]
    assert predicted["unit"] == "FLOPs"
    assert predicted["before"] / 4 < predicted["after"] < predicted["before"]
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


@pytest.mark.parametrize(
    ("passes", "line"),
    [
        ("half", "convert-float: run 1 of 1, sample 1"),
        ("quantize-smooth", "smooth-activations: channels of 3 activations, sample 1"),
        ("quantize-int4-awq", "awq: what 1 products sum, sample 1"),
        ("quantize,mend", "search-ranges: what 3 products sum, sample 1"),
    ],
)
def test_every_pass_that_runs_over_the_samples_tells_its_progress(passes: str, line: str, run: Run, net: Path) -> None:
    assert line in quantized(run, net, "--passes", passes).err


def test_schemes_that_need_no_samples(run: Run, net: Path) -> None:
    for scheme in ("int4-weights", "int8-dynamic", "float16"):
        words = ["-c", "samples.npz"] if scheme == "float16" else []
        result = run(
            "quantize", net, "-o", "o.onnx", "--validate", "labelled.npz", "--scheme", scheme, "--json", *words
        )
        assert result.status == 0, (scheme, result.err)
        assert result.json["quantized"]["layers"] > 0, scheme
