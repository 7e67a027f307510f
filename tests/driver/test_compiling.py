"""The compile driver and its child process: results, determinism, and every way in which it can fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt import io
from graphopt.driver import backend, lowering
from graphopt.driver import compiling as compiler
from graphopt.driver import worker as child
from graphopt.driver.deadline import parse_limit
from graphopt.errors import CompileError, InputError, ModelError, TargetError, UnsupportedError, VerificationError
from graphopt.ir import Tensor
from graphopt.ir.text import parse
from graphopt.rewriting.rewriter import Rewriter
from graphopt.runtime.artifact import Artifact
from graphopt.runtime.manifest import Memory, Workloads
from tests.compiled import inputs, model

RELU = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"""
UNKNOWN = """<ir_version: 10, opset_import: ["" : 21, "my.own" : 1]>
g (float[4] x) => (float[4] y) { t = my.own.Zap(x)  u = my.own.Zap(t)  y = Relu(u) }"""


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch):
    """Temporary files go into a folder of the test's own; none may be there when it ends."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield
    assert [path.name for path in folder.iterdir() if "graphopt" in path.name] == []


def test_what_can_be_compiled(tmp_path):
    """A path, a proto, bytes and a model give the same artifact; the model is not changed."""
    made = parse(RELU)
    version = made.version
    io.save(made, tmp_path / "m.onnx")
    proto = io.to_proto(made)
    sums = []
    for source in (made, proto, proto.SerializeToString(), tmp_path / "m.onnx"):
        artifact = graphopt.compile(source, passes="")
        sums.append({name: entry.sha256 for name, entry in artifact.manifest.files.items()})
    assert all(other == sums[0] for other in sums)
    assert made.version == version


def test_inputs_fix_shapes():
    artifact = compiler.compile(parse(RELU), inputs={"x": (2, 4)})
    assert artifact.manifest.inputs[0].shape == (2, 4)
    assert artifact.manifest.outputs[0].shape == (2, 4)


def test_verify_measures_the_error():
    artifact = compiler.compile(model(), verify=True)
    assert artifact.manifest.error is not None
    assert set(artifact.manifest.error) == {"y", "h"}
    assert all(0 <= error < 1e-5 for error in artifact.manifest.error.values())
    assert Artifact(artifact.folder).manifest.error == artifact.manifest.error
    assert compiler.compile(parse(RELU), passes="").manifest.error is None


def test_progress_goes_from_nothing_to_all():
    steps: list[tuple[str, float]] = []
    compiler.compile(parse(RELU), progress=lambda what, done: steps.append((what, done)))
    assert [done for _, done in steps] == sorted(done for _, done in steps)
    assert steps[0][1] == 0
    assert steps[-1] == ("done", 1.0)
    assert {"optimizing", "linking"} <= {what for what, _ in steps}


BUILD = """
import sys
from graphopt.driver import compiling as compiler
from tests.compiled import model
compiler.compile(model(), sys.argv[1]).save(sys.argv[2])
"""


@pytest.mark.parametrize("target", ["host", "arm:cortex-a53"])
def test_built_twice_it_is_the_same_bytes(tmp_path, target):
    """In other processes, folders, temporary folders and hash seeds."""
    root = Path(__file__).parents[2]
    for seed in ("1", "2"):
        scratch = tmp_path / f"scratch{seed}"
        scratch.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TMPDIR": str(scratch), "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", BUILD, target, str(tmp_path / f"{seed}.gopt")]
        subprocess.run(command, env=environment, cwd=scratch, check=True)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / f"{seed}.gopt").iterdir()} for seed in ("1", "2")
    )
    assert first == second
    assert not any(b"/scratch" in content or str(root).encode() in content for content in first.values())


def test_the_model_in_the_artifact_is_for_any_runtime():
    """Steps of the target's pipeline are in the code and in the report, but not in the kept model."""
    weight = ",".join(["0.5"] * 64)
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[1,8,4,4] x) => (float[1,8,4,4] y) <float[8,8,1,1] w = {{{weight}}}> {{ y = Conv(x, w) }}"""
    artifact = compiler.compile(parse(text), "x86")  # whose eight lanes the eight channels fill
    assert artifact.manifest.pipeline == "default,layout"
    assert [node.op for node in graphopt.load(artifact.folder / "graph.onnx").graph.nodes] == ["Conv"]
    steps = {step["pass"]: step for step in json.loads((artifact.folder / "report.json").read_text())["steps"]}
    assert steps["assign-layout"]["counts"]["nodes blocked"] == 1
    none = compiler.compile(parse(text), passes="")
    assert none.manifest.pipeline == ""


def test_all_unsupported_nodes_at_once():
    with pytest.raises(UnsupportedError) as caught:
        compiler.compile(parse(UNKNOWN))
    assert "2" in str(caught.value)
    assert "my.own" in str(caught.value)
    assert "graphopt-" not in str(caught.value), "it must not name temporary files"


def test_wrong_requests_before_any_work():
    with pytest.raises(TargetError, match="no target 'hots'"):
        compiler.compile(parse(RELU), "hots")
    with pytest.raises(ModelError, match="there is no such file"):
        compiler.compile("no.onnx")
    with pytest.raises(graphopt.GraphOptError, match="there is no input 'xx'"):
        compiler.compile(parse(RELU), inputs={"xx": (1, 4)})


class _Backend:
    """Stands for the backend in the child; `NAME` chooses what goes wrong there."""

    def build(self, model, target, folder, progress, tuning):
        progress("lowering", 0.0)
        what = os.environ["GRAPHOPT_TEST_FAILURE"]
        if what == "segfault":
            print("half a line", end="", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "exit":
            os._exit(3)
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "raise":
            raise ValueError("first line\n\nlast line")
        if what == "full":
            raise OSError(28, "No space left on device", str(folder / "lib.so"))
        if what == "print":
            print("noise on standard output")
            os.write(1, b'{"noise": 1}\n')
            return backend.Built((), (), (), {"tool": "1"}, Memory(0, 0, 0), Workloads(0, 0))
        subprocess.Popen(["sleep", "600"])
        tempfile.mkdtemp(prefix="graphopt-tune-")
        progress(f"sleeping {os.getpid()}", 0.5)
        if what == "orphan":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """`failing(what)` makes the child's backend fail in that way, and builds a model with it."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "if '-m' in sys.orig_argv:\n"
        "    import graphopt.driver.backend as backend\n"
        "    def load(name='tvm'):\n"
        "        from tests.driver.test_compiling import _Backend\n"
        "        return _Backend()\n"
        "    backend.load = load\n"
    )

    def build(what, progress=lambda what, done: None):
        monkeypatch.setenv("PYTHONPATH", str(hook))
        monkeypatch.setenv("GRAPHOPT_TEST_FAILURE", what)
        return compiler.compile(parse(RELU), passes="", progress=progress)

    return build


def test_a_crash_of_the_compiler(failing):
    with pytest.raises(CompileError, match=r"was ended by SIGSEGV; its last messages:\n.*half a line"):
        failing("segfault")


def test_a_compiler_that_just_ends(failing):
    with pytest.raises(CompileError, match=r"ended with status 3 and said nothing\n.*report it"):
        failing("exit")


def test_a_compiler_that_the_system_killed(failing):
    with pytest.raises(CompileError, match=r"was ended by SIGKILL(.|\n)*out of memory"):
        failing("kill")


def test_an_exception_in_the_compiler_is_one_message(failing):
    with pytest.raises(CompileError, match=r"^ValueError: first line last line\n.*report it") as caught:
        failing("raise")
    assert "Traceback" not in str(caught.value)
    assert any("Traceback" in note for note in caught.value.__notes__)


def test_a_full_disk_in_the_compiler(failing):
    with pytest.raises(CompileError, match=r"cannot write .*lib.so: No space left on device\n.*TMPDIR"):
        failing("full")


def test_what_the_compiler_prints_is_no_progress(failing):
    steps = []
    artifact = failing("print", lambda what, done: steps.append(what))
    assert "noise" not in str(steps)
    assert artifact.manifest.versions["tool"] == "1"


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it took too long")


@pytest.fixture
def scratch(tmp_path, monkeypatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_compiler_that_was_killed_leaves_nothing(failing, scratch):
    groups: list[int] = []
    with pytest.raises(CompileError, match="was ended by SIGKILL"):
        failing("orphan", lambda what, done: groups.append(int(what.split()[1])) if "sleeping" in what else None)
    wait_for(lambda: group_is_gone(groups[0]))
    assert not list(scratch.iterdir())


def test_an_interrupt_ends_the_compiler_and_all_it_started(failing, scratch):
    started: list[int] = []

    def progress(what: str, done: float) -> None:
        if what.startswith("sleeping"):
            started.append(int(what.split()[1]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing("sleep", progress)
    wait_for(lambda: ended(started[0]))
    assert group_is_gone(started[0])
    assert not list(scratch.iterdir())


def group_is_gone(group: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return False
    return True


def test_the_compiler_ends_with_a_parent_that_is_killed(failing, scratch):
    with pytest.raises(KeyboardInterrupt):  # sets the environment up
        failing("sleep", lambda what, done: (_ for _ in ()).throw(KeyboardInterrupt) if "sleeping" in what else None)
    script = f"""
from graphopt.driver import compiling as compiler
from graphopt.ir.text import parse
compiler.compile(parse({RELU!r}), passes="", progress=lambda what, done: print(what, flush=True))
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    group = next(int(line.split()[1]) for line in parent.stdout if line.startswith("sleeping"))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: group_is_gone(group))
    assert not list(scratch.glob("graphopt-job-*"))


def test_wrong_code_is_not_handed_out(monkeypatch):
    """The measured artifact is compared with the user's model, not with the optimized one."""

    def spoil(optimized, *arguments, **options):
        weight = next(v for v in optimized.graph.initializers.values() if v.shape == (16, 32))
        Rewriter(optimized.graph).set_tensor(weight, Tensor.of(weight.tensor.numpy() * np.float32(1.01)))
        return run_passes(optimized, *arguments, **{**options, "verify": False})

    run_passes = lowering.run_passes
    monkeypatch.setattr(lowering, "run_passes", spoil)
    with pytest.raises(VerificationError, match=r"the compiled code differs from the model:\n.*relative error"):
        compiler.compile(model(), passes="", verify=True)
    assert compiler.compile(model(), passes="").run(inputs())["h"].shape == (3, 32)


def test_an_answer_names_errors_of_the_childs_classes():
    table = {"class": "UnsupportedError", "message": "m", "where": "/tmp/graphopt-x/model.onnx", "remedy": "r"}
    error = child._rebuilt({**table, "traceback": "t"}, "/tmp/graphopt-x")
    assert isinstance(error, UnsupportedError)
    assert str(error) == "m\n  r"
    assert json.dumps(table)


def test_a_time_limit_ends_the_compiling_process() -> None:
    """It needs more time than that to load the compiler; the fixture looks for what is left behind."""
    with pytest.raises(CompileError, match=r"longer than the limit of 0\.5 seconds; it was ") as caught:
        graphopt.compile(parse(RELU), "x86:v2", passes="", time_limit=0.5)
    assert "--time-limit" in caught.value.remedy


def test_a_time_limit_that_is_not_reached_changes_nothing() -> None:
    artifact = graphopt.compile(parse(RELU), time_limit=500.0)
    np.testing.assert_array_equal(artifact.run({"x": np.float32([[-1, 0, 1, 2]])})["y"], [[0, 0, 1, 2]])


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_limit_is_a_positive_number(limit: float) -> None:
    with pytest.raises(InputError, match="time limit"):
        graphopt.compile(parse(RELU), time_limit=limit)


def test_time_limits_are_written_as_times() -> None:
    assert [parse_limit(text) for text in (None, "90s", "5m", "1.5h")] == [None, 90.0, 300.0, 5400.0]
    for text in ("soon", "5", "0s", "-1s"):
        with pytest.raises(InputError, match="time limit"):
            parse_limit(text)
