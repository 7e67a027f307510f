"""`graphopt tune` and `compile --tune`: requests, records, and artifacts that are the same for the same records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from graphopt import io, runtime
from graphopt.cli.options import choose_tuning
from graphopt.driver.tuning import Budget, Remote, Tuned, Tuning
from graphopt.errors import InputError
from graphopt.hardware.target import Target
from graphopt.proof.oracle import Reference
from graphopt.util.codec import decode, encode
from tests.cli.conftest import Run
from tests.helpers import model_of

CONV = "net (float[1,16,9,9] x) => (float[1,16,9,9] y) { c = Conv <pads = [1,1,1,1]> (x, w)  y = Relu(c) }"


@pytest.fixture
def network(tmp_path: Path) -> str:
    weight = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    io.save(model_of(CONV, {"w": weight}), tmp_path / "net.onnx")
    return str(tmp_path / "net.onnx")


def test_tuning_is_kept_and_used(run: Run, network: str) -> None:
    """Three candidates of one workload are measured; the tuned code is correct and always the same."""
    found = run("tune", network, "--budget", "3", "--records", "kept", "--json").json
    (workload,) = found["workloads"]
    assert workload["measured"] == 3
    assert workload["default_seconds"] > 0
    (file,) = Path("kept").iterdir()
    recorded = json.loads(file.read_text().splitlines()[-1])
    assert len(recorded["trials"]) == 3

    for name in ("a.gopt", "b.gopt"):
        compiled = run("compile", network, "--records", "kept", "-o", name, "--json").json
        assert compiled["manifest"]["workloads"] == {"total": 1, "tuned": 1}
    assert [path.read_bytes() for path in sorted(Path("a.gopt").iterdir())] == [
        path.read_bytes() for path in sorted(Path("b.gopt").iterdir())
    ]
    data = {"x": np.random.default_rng(1).standard_normal((1, 16, 9, 9)).astype(np.float32)}
    with Reference(io.load(network)) as reference:
        expected = reference.run(data)["y"]
    np.testing.assert_allclose(runtime.load("a.gopt").run(data)["y"], expected, rtol=1e-4, atol=1e-4)
    assert "tuned: 1 of 1" in run("compile", network, "--records", "kept", "-o", "a.gopt").out


def test_without_records_nothing_is_tuned(run: Run, network: str) -> None:
    for option in (("--tune", "off"), ("--records", "empty")):
        compiled = run("compile", network, *option, "--json").json
        assert compiled["manifest"]["workloads"] == {"total": 1, "tuned": 0}
    assert "tuned" not in run("compile", network, "--tune", "off").out
    assert not Path("empty").exists()


def test_a_damaged_record_is_told_of(run: Run, network: str, caplog: pytest.LogCaptureFixture) -> None:
    Path("kept").mkdir()
    Path("kept", "mine.jsonl").write_text('{"target": "half a li\n')
    assert run("compile", network, "--records", "kept").status == 0
    assert "mine.jsonl:1: skipped, because it is not a tuning record" in caplog.text


def test_a_search_is_kept_and_used(run: Run) -> None:
    """Measured for real; what is compiled with what was found is right, and always the same."""
    text = "net (float[6,50] x) => (float[6] y) { y = ReduceLogSumExp <keepdims=0> (x, axes) }"
    io.save(model_of(text, {"axes": np.array([1])}), "net.onnx")
    found = run("tune", "net.onnx", "--search", "--budget", "5", "--records", "kept", "--json").json["workloads"]
    assert sum(one["measured"] for one in found) == 5
    assert all(one["default_seconds"] > 0 for one in found)
    (file,) = Path("kept").iterdir()
    assert json.loads(file.read_text().splitlines()[-1])["general"] > 0

    for name in ("a.gopt", "b.gopt"):
        run("compile", "net.onnx", "--records", "kept", "-o", name)
    assert [path.read_bytes() for path in sorted(Path("a.gopt").iterdir())] == [
        path.read_bytes() for path in sorted(Path("b.gopt").iterdir())
    ]


def test_a_schedule_from_the_records_is_compiled(run: Run) -> None:
    """An artificial record is used and gives correct code; with `--tune off` it is ignored."""
    from graphopt.targets.tvm.codegen.build import tvm_target
    from graphopt.targets.tvm.cpu.pipeline import Cpu
    from graphopt.targets.tvm.device import fuse
    from graphopt.targets.tvm.lowering.lower import lower
    from graphopt.targets.tvm.machine import machine_for
    from graphopt.targets.tvm.tuning import search
    from graphopt.targets.tvm.tuning.evolution import Evolution, trace_of
    from graphopt.targets.tvm.tuning.searched import Found, Searched, key, to_text

    io.save(model_of("net (float[6,50] x) => (float[6,50] y) { y = Softmax (x) }", {}), "net.onnx")
    host = Target.load("host")
    made_for, machine = tvm_target(host), machine_for(host)
    lowered = lower(io.load("net.onnx"), machine)
    (function,) = search.functions_of(fuse(lowered.mod, made_for, Cpu(machine)), lowered.layers, machine)
    trace = trace_of(Evolution(function.func, made_for, [], 1).candidates()[0])
    known = Searched(host, Path("kept"))
    text = to_text(function.func)
    known.add(Found(known.target, known.toolchain, key(function.func), text, 2e-4, 1e-4, trace, 9, 1.0))

    run("compile", "net.onnx", "--records", "kept", "-o", "a.gopt", "--verify")
    run("compile", "net.onnx", "--tune", "off", "-o", "b.gopt")
    kernels = [json.loads(Path(name, "kernels.json").read_text())["kernels"] for name in ("a.gopt", "b.gopt")]
    assert [one["schedule"] for (one,) in kernels] == ["search", "generic"]
    data = {"x": np.random.default_rng(1).standard_normal((6, 50)).astype(np.float32)}
    exact = np.exp(data["x"]) / np.exp(data["x"]).sum(1, keepdims=True)
    np.testing.assert_allclose(runtime.load("a.gopt").run(data)["y"], exact, rtol=1e-5)


def test_nothing_to_tune(run: Run, tmp_path: Path) -> None:
    io.save(model_of("net (float[4] x) => (float[4] y) { y = Relu(x) }", {}), tmp_path / "relu.onnx")
    assert "nothing to tune" in run("tune", "relu.onnx", "--budget", "3").out


@pytest.mark.parametrize("command", ["compile", "tune"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rpc", "127.0.0.1:1", "--rpc-key", "pi"], "no tracker can be reached"),
        (["--rpc", "127.0.0.1", "--rpc-key", "pi"], "Write it as HOST:PORT"),
        (["--rpc", "127.0.0.1:99999", "--rpc-key", "pi"], "Write it as HOST:PORT"),
        (["--rpc", "127.0.0.1:9190"], "Name it with --rpc-key"),
        (["--rpc-key", "pi"], "tracker with --rpc"),
        (["--target", "cuda"], "kernels for cuda are not tuned"),
        (["--target", "arm"], "--rpc HOST:PORT"),
    ],
)
def test_wrong_requests(run: Run, network: str, command: str, options: list[str], words: str) -> None:
    budget = ["--tune", "2"] if command == "compile" else ["--budget", "2"]
    assert words in run(command, network, *budget, *options).error()
    assert not list(Path().glob("*.gopt"))


@pytest.mark.parametrize("text", ["5x", "", "s", "-5", "0", "0s", "1e3", "five", "5 m"])
def test_budgets_that_cannot_be_read(run: Run, network: str, text: str) -> None:
    for message in (
        run("compile", network, f"--tune={text}").error(),
        run("tune", network, f"--budget={text}").error(),
    ):
        assert "60s, 5m or 1h" in message


def test_what_contradicts_itself(run: Run, network: str) -> None:
    assert "Add --tune" in run("compile", network, "--rpc", "a:1", "--rpc-key", "b").error()
    assert "--tune off uses none" in run("compile", network, "--tune", "off", "--records", "kept").error()
    assert "needs a budget" in run("tune", network, "--budget", "off").error()


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("60s", Budget(seconds=60)),
        ("5m", Budget(seconds=300)),
        ("1.5h", Budget(seconds=5400)),
        (" 200 ", Budget(measurements=200)),
    ],
)
def test_budgets(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget


def test_what_travels_to_the_child_arrives() -> None:
    for tuning in (
        Tuning(),
        Tuning.of("off"),
        Tuning.of(200, "folder"),
        Tuning(search=True),
        choose_tuning("5m", None, "[::1]:9190", "pi"),
    ):
        assert decode(Tuning, json.loads(json.dumps(encode(tuning)))) == tuning
    assert Remote.parse("[::1]:9190", "pi") == Remote("::1", 9190, "pi")
    with pytest.raises(InputError):
        Tuning.of("soon")
    one = Tuned("conv", 2, "a", 1.0, "b", 0.5, 3, 0, False)
    assert decode(Tuned, json.loads(json.dumps(encode(one)))) == one
