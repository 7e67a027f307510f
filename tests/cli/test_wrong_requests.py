"""An invalid request ends with one message and exit status 2, and nothing is left half-written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from graphopt import io
from graphopt.cli.demo import MODEL
from graphopt.cli.output import Output
from tests.cli.conftest import Run
from tests.helpers import model_of, parse_proto

READERS = (
    ("compile", "{}"),
    ("optimize", "{}", "-o", "out.onnx"),
    ("inspect", "{}"),
    ("diff", "{}", "{}"),
    ("bisect", "{}"),
    ("verify", "{}", "{}"),
)


def check_unreadable(run: Run, model: str, *words: str) -> None:
    """Every command that reads a model says the same of it."""
    for command in READERS:
        message = run(*(word.format(model) for word in command)).error()
        for word in (model, *words):
            assert word in message, (command[0], message)
    assert not Path("out.onnx").exists()
    assert not list(Path().glob("*.gopt"))


def test_missing_file(run: Run) -> None:
    check_unreadable(run, "nowhere.onnx", "no such file")


def test_a_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "folder" in run("compile", "folder").error()


def test_not_onnx(run: Run) -> None:
    Path("notes.onnx").write_text("This is no model.\n" * 10)
    check_unreadable(run, "notes.onnx", "not an ONNX model")


def test_truncated(run: Run, mlp: Path) -> None:
    Path("cut.onnx").write_bytes(mlp.read_bytes()[:-40])
    check_unreadable(run, "cut.onnx", "truncated")


def test_cyclic(run: Run) -> None:
    proto = parse_proto("g (float[2] x) => (float[2] y) { a = Add(x, b)  b = Relu(a)  y = Relu(b) }")
    onnx.save(proto, "cycle.onnx")
    check_unreadable(run, "cycle.onnx", "cycle")


def test_invalid_by_the_checker(run: Run) -> None:
    proto = parse_proto("g (float[2] x) => (float[2] y) { y = Relu(x, x) }")
    onnx.save(proto, "invalid.onnx")
    check_unreadable(run, "invalid.onnx", "onnx.checker", "Relu")


def external_model(location: str) -> None:
    """Write `external.onnx`, whose weight is said to lie in another file."""
    proto = parse_proto("g (float[2] x) => (float[2] y) { y = Add(x, w) }")
    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    proto.graph.initializer.append(weight)
    Path("external.onnx").write_bytes(proto.SerializeToString())


def test_external_data_is_missing(run: Run) -> None:
    external_model("gone.bin")
    check_unreadable(run, "external.onnx", "gone.bin")


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/hostname"])
def test_external_data_outside_the_folder(run: Run, tmp_path: Path, location: str) -> None:
    (tmp_path.parent / "outside.bin").write_bytes(bytes(8))
    external_model(location)
    check_unreadable(run, "external.onnx", location)


def test_unknown_target(run: Run, mlp: Path) -> None:
    assert "arm:cortex-a76" in run("compile", mlp, "--target", "arm:cortex-a67").error()
    assert "no-board.toml" in run("compile", mlp, "--target", "./no-board.toml").error()
    assert not list(Path().glob("*.gopt"))


def test_unknown_pass_and_pipeline(run: Run, mlp: Path) -> None:
    message = run("optimize", mlp, "-o", "out.onnx", "--passes", "clean,fuse-conv-bm").error()
    assert "fuse-conv-bn" in message
    assert "^" in message
    assert "fuse-conv-bn" in run("passes", "fuse-conv-bm").error()


@pytest.mark.parametrize(
    ("pipeline", "word"),
    [
        ("fold-constants{limitt=3}", "limit"),
        ("fold-constants{limit=many}", "limit"),
        ("fixpoint(clean", ")"),
        ("clean,,fuse", "^"),
    ],
)
def test_wrong_pipeline_text(run: Run, mlp: Path, pipeline: str, word: str) -> None:
    assert word in run("optimize", mlp, "-o", "out.onnx", "--passes", pipeline).error()


def test_wrong_option(run: Run, mlp: Path) -> None:
    message = run("compile", mlp, "--tarket", "arm").error()
    assert "--target" in message
    assert "`graphopt compile --help`" in message
    assert "optimize" in run("optimise", mlp).error()
    assert "-O" in run("compile", mlp, "-O7").error()
    assert "--threads" in run("bench", "x.gopt", "--threads", "0").error()
    assert run("optimize", mlp).error()  # the option --out is missing


def test_wrong_input_shape_option(run: Run, mlp: Path) -> None:
    assert "did you mean 'x'" in run("compile", mlp, "--input", "xx:1x4").error()
    assert "fixes it to 4" in run("compile", mlp, "--input", "x:1x5").error()
    assert "dimensions" in run("compile", mlp, "--input", "x:1x4x1").error()
    for text in ("x", "x:1xN", "x:0x4", "x:1,4", ":1x4"):
        assert "x:1x3x224x224" in run("compile", mlp, "--input", text).error()
    assert "twice" in run("compile", mlp, "--input", "x:1x4", "--input", "x:2x4").error()
    assert not list(Path().glob("*.gopt"))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": np.zeros((1, 4), np.float32)}, ("'z'", "x")),
        ({"x": np.zeros((1, 4), np.float64)}, ("float64", "float32")),
        ({"x": np.zeros((1, 5), np.float32)}, ("5", "4")),
        ({"x": np.zeros(4, np.float32)}, ("x",)),
        ({}, ("x",)),
    ],
)
def test_wrong_inputs(
    run: Run, compiled: Path, mlp: Path, arrays: dict[str, np.ndarray], words: tuple[str, ...]
) -> None:
    np.savez("x.npz", **arrays)  # type: ignore[arg-type]
    message = run("run", compiled, "--inputs", "x.npz", "--outputs", "y.npz").error()
    assert all(word in message for word in words), message
    assert not Path("y.npz").exists()
    if arrays:
        message = run("verify", compiled, mlp, "--inputs", "x.npz").error()
        assert all(word in message for word in words), message


def test_inputs_that_are_no_npz(run: Run, compiled: Path) -> None:
    Path("x.npz").write_text("no arrays")
    np.save("x.npy", np.zeros((1, 4), np.float32))
    assert "npz" in run("run", compiled, "--inputs", "x.npz").error()
    assert "npz" in run("run", compiled, "--inputs", "x.npy").error()
    assert "no such file" in run("run", compiled, "--inputs", "nowhere.npz").error()


def test_wrong_artifact(run: Run, compiled: Path, tmp_path: Path) -> None:
    np.savez("x.npz", x=np.zeros((1, 4), np.float32))
    assert "no such artifact" in run("run", "nowhere.gopt", "--inputs", "x.npz").error()
    Path("empty.gopt").mkdir()
    assert "manifest.json" in run("run", "empty.gopt", "--inputs", "x.npz").error()
    copy = tmp_path / "altered.gopt"
    copy.mkdir()
    for file in compiled.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "lib.so").write_bytes(b"altered" + (compiled / "lib.so").read_bytes()[7:])
    assert "lib.so" in run("run", copy, "--inputs", "x.npz").error()
    assert "lib.so" in run("bench", copy).error()


def test_unwritable(run: Run, mlp: Path, compiled: Path) -> None:
    Path("file").write_text("in the way")
    np.savez("x.npz", x=np.zeros((1, 4), np.float32))
    assert "file/out.onnx" in run("optimize", mlp, "-o", "file/out.onnx").error()
    assert "nowhere/out.onnx" in run("optimize", mlp, "-o", "nowhere/out.onnx").error()
    assert "file/out.gopt" in run("compile", mlp, "-o", "file/out.gopt").error()
    assert "nowhere" in run("run", compiled, "--inputs", "x.npz", "--outputs", "nowhere/y.npz").error()
    assert sorted(path.name for path in Path().iterdir()) == ["file", "mlp.onnx", "x.npz"]


def test_a_pipe_is_not_replaced(run: Run, mlp: Path, compiled: Path) -> None:
    os.mkfifo("pipe")
    np.savez("x.npz", x=np.zeros((1, 4), np.float32))
    assert "not a file" in run("optimize", mlp, "-o", "pipe").error()
    assert "not a file" in run("run", compiled, "--inputs", "x.npz", "--outputs", "pipe").error()
    assert Path("pipe").is_fifo()


def test_something_else_is_in_the_way(run: Run, mlp: Path) -> None:
    Path("mine.gopt").mkdir()
    Path("mine.gopt/thesis.txt").write_text("precious")
    assert "not an artifact" in run("compile", mlp, "-o", "mine.gopt").error()
    assert Path("mine.gopt/thesis.txt").read_text() == "precious"


def test_disk_full(run: Run, mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Path("out.onnx").write_text("what was there before")
    monkeypatch.setattr(os, "replace", full)
    assert "No space left" in run("optimize", mlp, "-o", "out.onnx").error()
    assert "No space left" in run("compile", mlp, "-o", "out.gopt").error()
    assert sorted(path.name for path in Path().iterdir()) == ["mlp.onnx", "out.onnx"]
    assert Path("out.onnx").read_text() == "what was there before"


def test_unsupported_operators_are_listed_together(run: Run) -> None:
    text = (
        '<ir_version: 11, opset_import: ["" : 24, "com.example" : 1]> g (float[2] x) => (float[2] y) '
        "{ a = com.example.Odd(x)  b = Relu(a)  y = com.example.Even(b) }"
    )
    io.save(model_of(text), "custom.onnx")
    message = run("compile", "custom.onnx").error()
    assert "com.example::Odd" in message
    assert "com.example::Even" in message
    assert not Path("custom.gopt").exists()
    inspected = run("inspect", "custom.onnx", "--target", "x86", "--json")
    assert inspected.status == 1
    assert [node["operator"] for node in inspected.json["target"]["unsupported"]] == [
        "com.example::Odd",
        "com.example::Even",
    ]


def test_a_module_that_cannot_be_loaded(run: Run, mlp: Path) -> None:
    Path("broken.py").write_text("import nothing_of_this_name")
    assert "nothing_of_this_name" in run("optimize", mlp, "-o", "out.onnx", "--load", "broken.py").error()
    Path("empty.py").write_text("")
    assert "no pass" in run("optimize", mlp, "-o", "out.onnx", "--load", "empty.py").error()


RAISING = """
from dataclasses import dataclass
from typing import ClassVar
from graphopt import Fidelity, Pass

@dataclass(frozen=True)
class Raise(Pass):
    '''Raise.'''

    name: ClassVar[str] = "cli-test-raise"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph, context):
        raise ZeroDivisionError("of all things")
"""


def test_a_pass_that_raises(run: Run, mlp: Path) -> None:
    Path("raising.py").write_text(RAISING)
    result = run("optimize", mlp, "-o", "out.onnx", "--load", "raising.py", "-p", "cli-test-raise")
    assert "cli-test-raise" in result.error()
    assert "of all things" in result.error()
    assert not Path("out.onnx").exists()


def test_a_bug_is_one_message_too(run: Run, mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(io, "load", broken)
    message = run("inspect", mlp).error()
    assert "bug in graphopt" in message
    assert "KeyError" in message
    assert "--traceback" in message


@pytest.mark.parametrize("baseline", ["tensorflow", ""])
def test_unknown_baseline(run: Run, compiled: Path, baseline: str) -> None:
    assert "onnxruntime" in run("bench", compiled, "--baseline", baseline).error()


def test_options_that_contradict_each_other(run: Run, mlp: Path) -> None:
    assert "O1" in run("optimize", mlp, "-o", "out.onnx", "-O1", "--passes", "clean").error()
    np.savez("x.npz", x=np.zeros((1, 4), np.float32))
    assert "--verify" in run("compile", mlp, "--inputs", "x.npz").error()


def test_infinities_are_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).result({"error": float("inf"), "list": [1.5, float("nan")]})
    assert json.loads(capsys.readouterr().out) == {"error": None, "list": [1.5, None]}


def test_tolerance_that_accepts_anything(run: Run, mlp: Path) -> None:
    assert "--tolerance" in run("verify", mlp, mlp, "--tolerance", "1.5").error()
    assert "--tolerance" in run("bisect", mlp, "--tolerance", "-1").error()


@pytest.fixture
def compiling(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A `graphopt compile` that has just begun to compile in its child process, and needs seconds for it."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", "from graphopt.cli import main; main()", "compile", str(MODEL), "-o", "out.gopt"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what runs in the background with interrupts ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "lowering" in line:
            break
    yield process
    process.kill()
    process.wait()


def check_nothing_left(process: subprocess.Popen[str], folder: Path) -> None:
    assert not psutil.pid_exists(process.pid) or process.poll() is not None
    assert sorted(path.name for path in folder.iterdir()) == ["scratch"]
    assert not list((folder / "scratch").iterdir())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 2), (signal.SIGTERM, 143)])
def test_interrupted(compiling: subprocess.Popen[str], tmp_path: Path, number: int, status: int) -> None:
    children = psutil.Process(compiling.pid).children(recursive=True)
    assert children
    compiling.send_signal(number)
    out, err = compiling.communicate(timeout=30)
    assert compiling.returncode == status
    assert "Traceback" not in err
    assert not out
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)
    check_nothing_left(compiling, tmp_path)


def test_the_compiler_crashes(compiling: subprocess.Popen[str], tmp_path: Path) -> None:
    for child in psutil.Process(compiling.pid).children():
        child.send_signal(signal.SIGSEGV)
    _, err = compiling.communicate(timeout=30)
    assert compiling.returncode == 2
    assert "error: the compiling process was ended by SIGSEGV" in err
    assert "Traceback" not in err
    check_nothing_left(compiling, tmp_path)
