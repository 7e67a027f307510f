"""The benchmark against other runtimes: measurements, summaries, and the handling of failures."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt import io
from graphopt.driver import compiling as compiler
from tests.helpers import model_of
from tools import bench, bench_case, peers, suite
from tools.bench_case import Job
from tools.bench_chart import draw
from tools.bench_ratio import ratio, summary
from tools.bench_turns import runs_in_a_turn, serve
from tools.bench_worker import Worker, peak_bytes, take_turns
from tools.catalogue import ENCODERS, NAMES, SIZES, entry
from tools.fetch_models import MODELS
from tools.light import LIGHT

TEXT = "small (float[2,4] x) => (float[2,4] y) { t = Mul(x, x)  y = Add(t, x) }"
ABOUT = {"date": "2026-01-02T03:04:05+00:00", "cpu": "a <CPU>", "versions": {"graphopt": "1.2", "openvino": None}}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A model of fixed shapes, in a file."""
    path = tmp_path / "small.onnx"
    io.save(model_of(TEXT), path)
    return path


def row(model: str, threads: int, batch: int = 1, **p50: float) -> dict[str, Any]:
    timings = {name: {"p50": value, "p90": 2 * value} for name, value in p50.items()}
    compiling = {"seconds": 3.0, "peak_bytes": 10**9}
    about = {"model": model, "batch": batch, "threads": threads, "memory": {}, "compile": compiling}
    return {**about, "timings": timings, "errors": {}, "failures": {}}


def test_the_catalogue_names_models_that_can_be_had() -> None:
    assert set(NAMES) == {"fashion", *ENCODERS, *MODELS, *LIGHT} - {"silero-vad"}
    assert set(SIZES) <= set(NAMES)
    assert all(len(sizes) == 3 for sizes in SIZES.values())


def test_a_file_is_an_entry_of_its_own(small: Path) -> None:
    assert entry(str(small)).name == "small"
    assert entry(str(small)).sizes == ({},)
    with pytest.raises(FileNotFoundError, match="neither a file nor one of"):
        entry("no-such-model")


# --- the suite


def test_the_suite_is_of_the_catalogue() -> None:
    assert set(suite.SUITE) <= set(NAMES)
    assert set(LIGHT) <= set(suite.SUITE)
    assert suite.shapes("magika", 8) == {"bytes": (8, 2048)}


def test_shapes_are_fixed(small: Path) -> None:
    fixed = suite.with_shapes(onnx.load(small), {"x": (3, 4)})
    assert [d.dim_value for d in fixed.graph.input[0].type.tensor_type.shape.dim] == [3, 4]


def batch_of_one(target: list[int], reads: str = "x") -> onnx.ModelProto:
    """x float32[1,2,3] reshaped to a constant shape, which a second Reshape of another value shares."""
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
        one (float[1,2,3] x) => (float[{",".join(map(str, target))}] y)
        <int64[{len(target)}] shape = {{{",".join(map(str, target))}}}>
        {{ t = Relu({reads})  y = Reshape(t, shape) }}"""
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize("target", [[1, 6], [1, 3, 2], [1, 2, 3]])
def test_a_model_for_one_sample_takes_many(target: list[int]) -> None:
    many = suite.rebatched(batch_of_one(target), 4)
    onnx.checker.check_model(many, full_check=True)
    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
    (y,) = suite._session(many).run(None, {"x": x})
    np.testing.assert_array_equal(y, np.maximum(x, 0).reshape(4, *target[1:]))


def test_shapes_that_do_not_begin_with_the_batch_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    many = suite.rebatched(batch_of_one([6, 1]), 4)
    shapes = [numpy_helper.to_array(tensor).tolist() for tensor in many.graph.initializer]
    assert shapes == [[6, 1]]


def test_a_model_for_more_than_one_sample_is_refused(small: Path) -> None:
    with pytest.raises(ValueError, match="input x is not written for batch size 1"):
        suite.rebatched(onnx.load(small), 8)


def mixing(batch: int) -> onnx.ModelProto:
    """Adds up a batch: right for a batch of one alone."""
    text = f"mix (float[{batch},3] x) => (float[{batch},3] y) {{ s = ReduceMean(x, axes)  y = Add(x, s) }}"
    return io.to_proto(model_of(text, {"axes": np.int64([0])}))


def test_a_batch_is_compared_with_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = {"x": np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)}
    monkeypatch.setattr(suite, "fixed", lambda name, batch: mixing(batch))
    with pytest.raises(ValueError, match="mix: sample 0 of y differs"):
        suite.check_rebatched("mix", mixing(4), feed)
    apart = "apart (float[{0},3] x) => (float[{0},3] y) {{ y = Softmax(x) }}"
    monkeypatch.setattr(suite, "fixed", lambda name, batch: io.to_proto(model_of(apart.format(batch))))
    suite.check_rebatched("apart", suite.fixed("apart", 4), feed)


# --- what is made of the measurements


def test_the_ratio_is_to_the_better_peer() -> None:
    assert ratio(row("a", 1, onnxruntime=3.0, openvino=2.0, graphopt=1.0)) == 2.0
    assert ratio(row("a", 1, onnxruntime=3.0, graphopt=1.0)) == 3.0
    assert ratio(row("a", 1, onnxruntime=3.0)) is None
    assert ratio(row("a", 1, graphopt=3.0)) is None


def test_the_summary_has_the_geometric_mean_and_the_worst() -> None:
    rows = [
        row("a", 1, onnxruntime=4.0, graphopt=1.0),
        row("b", 1, onnxruntime=1.0, graphopt=1.0),
        row("c", 1, openvino=1.0, graphopt=4.0),
        row("d", 1, graphopt=4.0),
    ]
    found = summary(rows)
    assert found is not None
    assert found.mean == pytest.approx(1.0)
    assert (found.count, found.least, found.worst["model"], found.losses) == (3, 0.25, "c", 1)
    assert summary(rows[3:]) is None


def test_the_tables() -> None:
    rows = [row("a", 1, onnxruntime=0.002, graphopt=0.001), row("b", 2, 8, onnxruntime=0.002)]
    first, second = bench.table(rows).rows
    assert first == ("a", "1", "1", "1.00 ms", "2.00 ms", "-", "2.00", "-", "-", "3.00 s", "1.00 GB")
    assert second[:7] == ("b", "8", "2", "-", "2.00 ms", "-", "-")
    assert bench.summary_table(rows).rows == [
        ("1", "all", "1", "2.000", "2.00", "a x1", "0"),
        ("1", "1", "1", "2.000", "2.00", "a x1", "0"),
    ]


def test_the_picture_has_a_sorted_column_for_each_thread_count() -> None:
    rows = [
        row("slow", 1, onnxruntime=0.5, graphopt=1.0),
        row("fast", 1, 8, onnxruntime=3.0, graphopt=1.0),
        row("fast", 2, onnxruntime=2.0, graphopt=1.0),
        row("unmeasured", 2, onnxruntime=2.0),
    ]
    root = ET.fromstring(draw(rows, ABOUT))
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a <CPU>; graphopt 1.2; 2026-01-02" in texts[1]
    order = ["1 thread", "geometric mean 1.22, least 0.50", "fast x8", "3.00", "slow", "0.50"]
    order += ["2 threads", "geometric mean 2.00, least 2.00", "fast", "2.00"]
    assert texts[2:] == order
    ET.fromstring(draw([], ABOUT))


def test_measured_again_means_replaced() -> None:
    old = [row("a", 1, graphopt=1.0), row("b", 1, graphopt=1.0)]
    new = [row("a", 1, graphopt=2.0), row("a", 1, 8, graphopt=3.0)]
    found = bench.merged(old, new)
    assert [(r["model"], r["batch"], r["timings"]["graphopt"]["p50"]) for r in found] == [
        ("a", 1, 2.0),
        ("b", 1, 1.0),
        ("a", 8, 3.0),
    ]


def test_going_on_means_what_is_lacking_and_what_failed(small: Path) -> None:
    options = bench._parser().parse_args(["magika", str(small)])
    done = [row("magika", 1), row("magika", 2), row("magika", 1, 8), row("small", 1)]
    done[1]["failures"] = {"graphopt": "once"}
    jobs = [(job.name, job.batch, job.threads) for job in bench._jobs(options, done)]
    assert jobs == [("magika", 1, (2,)), ("magika", 8, (2,)), ("small", 1, (2,))]


# --- measuring


def folder_of(small: Path, tmp_path: Path, *, compiled: bool = True) -> Path:
    """Create what a worker needs."""
    folder = tmp_path / "case"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(small.read_bytes())
    np.savez(folder / "feed.npz", x=np.full((2, 4), 3, np.float32))
    if compiled:
        compiler.compile(small).save(folder / "model.gopt")
    return folder


@pytest.mark.parametrize("name", peers.available())
def test_a_worker_runs_when_it_is_told_to_and_stands_still_otherwise(small: Path, tmp_path: Path, name: str) -> None:
    with Worker(name, folder_of(small, tmp_path), 1, "wall") as worker:
        np.testing.assert_allclose(worker.outputs()["y"], np.full((2, 4), 12, np.float32))
        state = Path(f"/proc/{worker._process.pid}/stat")
        assert state.read_text().rpartition(")")[2].split()[0] == "T"
        times = worker.turn()
        assert 1 <= len(times) <= 10
        assert all(seconds > 0 for seconds in times)
        assert worker.peak_bytes() > 10**7
    assert not state.exists()


def test_a_worker_ends_with_whoever_started_it(small: Path, tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from tools.bench_worker import Worker
print(Worker("onnxruntime", Path(sys.argv[1]), 1, "wall")._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", script, str(folder_of(small, tmp_path, compiled=False))]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    state = Path(f"/proc/{int(done.stdout)}/stat")
    end = time.perf_counter() + 10
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.perf_counter() < end, "the worker lives on"
        time.sleep(0.01)


def test_a_worker_that_cannot_load_its_model_says_why(small: Path, tmp_path: Path) -> None:
    folder = folder_of(small, tmp_path, compiled=False)
    with pytest.raises(RuntimeError, match="there is no such artifact"):
        Worker("graphopt", folder, 1, "wall")


class Counted:
    """A worker that notes its turns."""

    def __init__(self, turns: list[str], name: str) -> None:
        self.turns, self.name = turns, name

    def turn(self) -> list[float]:
        self.turns.append(self.name)
        return [0.5, 0.25, 0.75]


def test_workers_take_turns() -> None:
    turns: list[str] = []
    workers: Any = {name: Counted(turns, name) for name in "ab"}
    timings = take_turns(workers, runs=7, seconds=60)
    assert "".join(turns) == "abbaab"
    assert {name: (t.runs, t.p50) for name, t in timings.items()} == {"a": (9, 0.5), "b": (9, 0.5)}
    turns.clear()
    take_turns(workers, runs=100, seconds=0)
    assert "".join(turns) == "abbaab"
    assert take_turns({}, 1, 1) == {}


def test_quick_models_run_more_often_in_a_turn() -> None:
    assert [runs_in_a_turn(seconds) for seconds in (0.0, 1e-4, 5e-3, 1.0)] == [10, 10, 4, 1]


def test_the_first_run_of_a_turn_does_not_count() -> None:
    calls: list[int] = []
    answers: list[list[float]] = []
    serve(lambda: calls.append(1), "wall", ["go", "go"], answers.append)
    assert len(calls) == sum(len(times) for times in answers) + 2


def test_peak_memory_is_this_processs_own() -> None:
    assert 10**7 < peak_bytes() < 10**12


def test_models_are_measured_beside_each_other(small: Path, tmp_path: Path) -> None:
    output = tmp_path / "result"
    request = [str(small), "--runs", "2", "-o", str(output)]
    assert bench.main([*request, "--threads", "1"]) == 0
    result = json.loads(output.with_suffix(".json").read_text())
    (found,) = result["rows"]
    assert (found["model"], found["batch"], found["threads"]) == ("small", 1, 1)
    assert {"onnxruntime", "graphopt"} <= set(found["timings"])
    assert found["timings"]["graphopt"]["runs"] >= 2
    assert found["errors"]["graphopt"] < 1e-6
    assert found["memory"]["graphopt"] > 10**7
    assert found["compile"]["peak_bytes"] > 10**7
    assert found["compile"]["seconds"] > 0
    assert found["ratio"] > 0
    assert not found["failures"]
    assert result["machine"]["date"].endswith("+00:00")
    assert result["machine"]["versions"]["graphopt"] == graphopt.__version__
    assert ET.parse(output.with_suffix(".svg")).getroot().tag.endswith("svg")
    # Going on: what is there is kept, the rest measured.
    assert bench.main([*request, "--threads", "1", "2", "--resume"]) == 0
    rows = json.loads(output.with_suffix(".json").read_text())["rows"]
    assert [r["threads"] for r in rows] == [1, 2]
    assert rows[0] == found


def test_what_cannot_be_compiled_is_reported_and_the_others_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loop that ONNX Runtime runs, and graphopt has no kernels for."""
    text = """looped (float[2] x, int64 n) => (float[2] y) {
        yes = Constant<value_int = 1>()
        go = Cast<to = 9>(yes)
        y = Loop(n, go, x) <body = step (int64 i, bool c, float[2] v) => (bool c2, float[2] w) {
            c2 = Identity(c)  w = Add(v, v) }>
    }"""
    io.save(model_of(text), tmp_path / "looped.onnx")
    request = [str(tmp_path / "looped.onnx"), "--threads", "1", "--runs", "1", "-o", str(tmp_path / "result")]
    assert bench.main(request) == 1
    assert "looped x1, 1 threads, graphopt: UnsupportedError" in capsys.readouterr().err
    (found,) = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert "onnxruntime" in found["timings"]
    assert "graphopt" not in found["timings"]
    assert found["compile"] is None


def test_a_runtime_whose_outputs_differ_is_not_timed(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Worker.outputs

    def wrong(self: Worker) -> dict[str, np.ndarray]:
        outputs = real(self)
        return {name: array * 2 for name, array in outputs.items()} if self._outputs.stem == "graphopt" else outputs

    monkeypatch.setattr(Worker, "outputs", wrong)
    (found,) = bench_case.measure(Job(str(small), 1, (1,), runs=1, seconds=1, target="host"))
    assert found["failures"]["graphopt"].startswith("outputs differ: output 'y'")
    assert "graphopt" not in found["timings"]
    assert "onnxruntime" in found["timings"]


def test_all_get_the_same_quantized_model(tmp_path: Path) -> None:
    path, weights = tmp_path / "product.onnx", np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    io.save(model_of("g (float[4,64] x) => (float[4,32] y) { y = MatMul(x, w) }", {"w": weights}), path)
    (found,) = bench_case.measure(Job(str(path), 1, (1,), runs=1, seconds=1, target="host", int8=True))
    assert found["int8"]
    assert not found["failures"]
    assert set(found["timings"]) >= {"graphopt", "onnxruntime"}


@pytest.mark.parametrize(("reduce_range", "most"), [(False, 127), (True, 63)])
def test_weights_have_as_many_bits_as_wanted(tmp_path: Path, reduce_range: bool, most: int) -> None:
    path, weights = tmp_path / "product.onnx", np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    io.save(model_of("g (float[4,64] x) => (float[4,32] y) { y = MatMul(x, w) }", {"w": weights}), path)
    bench_case.quantize(path, tmp_path, reduce_range)
    stored = [numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
    assert [np.abs(one.astype(int)).max() for one in stored if one.shape == (64, 32)] == [most]


def test_a_case_that_dies_costs_only_itself(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def died(job: Job, work: Path) -> list[dict[str, Any]]:
        raise RuntimeError("ended with status -11: nothing")

    monkeypatch.setattr(bench_case, "run", died)
    assert bench.main([str(small), "-o", str(tmp_path / "result"), "--threads", "1", "2"]) == 1
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert [r["failures"]["graphopt"] for r in rows] == ["ended with status -11: nothing"] * 2
    assert "status -11" in capsys.readouterr().err


def test_wrong_requests_mean_status_2(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["no-such-model"]) == 2
    assert "neither a file nor one of" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        bench.main([str(small), "--clock", "cpu", "--threads", "1", "2"])
    assert stopped.value.code == 2
    assert "--threads 1" in capsys.readouterr().err


def test_quantized_outputs_are_judged_by_their_distance_to_the_floats() -> None:
    floats = np.linspace(-1, 1, 50, dtype=np.float32)
    judge = bench_case.Judge({"y": floats + 0.01}, {"y": floats})
    assert judge({"y": floats - 0.01})[1] == ""  # other roundings, as near as the model's
    assert judge({"y": floats})[0] == 0
    for wrong in (floats + 0.02, floats[::-1], np.full_like(floats, np.nan), floats[:-1]):
        assert judge({"y": wrong})[1]
