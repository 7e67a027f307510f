from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphopt import io, registry
from graphopt.errors import GraphOptError, InputError, PassError, VerificationError
from graphopt.ir import Model, infer_shapes
from graphopt.proof.observers import CheckNumbers, CheckStructure, CrashReproducer, PassLimit, PrintChanged, Timing
from graphopt.proof.oracle import OracleError
from graphopt.proof.tolerance import Tolerance
from graphopt.rewriting.passes import Fidelity, Pass
from graphopt.rewriting.pipeline import Observer, PassManager, Pipeline
from tests import planted
from tests.helpers import model_of, ops


def run(model: Model, *passes: Pass, observers: list[Observer]) -> None:
    PassManager(Pipeline.of(*passes), observers).run(model)


def layers() -> Model:
    model = model_of(planted.MODEL, planted.WEIGHTS)
    infer_shapes(model)
    return model


@pytest.mark.parametrize("wrong", planted.WRONG, ids=lambda cls: cls.name)
def test_planted_wrong_passes_are_caught_by_name(wrong: type[Pass]) -> None:
    observers = [CheckStructure(), CheckNumbers()]
    with pytest.raises(GraphOptError) as failure:
        run(layers(), planted.HarmlessAddPass(), wrong(), observers=observers)
    assert failure.value.where == f"g: step 1, {wrong.name}"
    assert isinstance(failure.value, PassError | VerificationError)
    assert "layer5" in failure.value.message


@pytest.mark.parametrize(
    "wrong", [planted.BadShapePass, planted.WrongTypePass, planted.DanglingPass, planted.LostOutputPass]
)
def test_structure_alone_catches_what_is_wrong_with_structure(wrong: type[Pass]) -> None:
    with pytest.raises(VerificationError, match=f"the graph that {wrong.name} left is wrong.*rewrite 6, at Relu"):
        run(layers(), wrong(), observers=[CheckStructure()])


def test_right_passes_are_not_accused() -> None:
    model = layers()
    report = PassManager(Pipeline.of(planted.HarmlessPass()), [CheckStructure(), CheckNumbers()]).run(model)
    assert ops(model)["Max"] == planted.LAYERS
    assert report.error == 0.0


def test_the_message_tells_the_worst_output_and_the_rewrite() -> None:
    with pytest.raises(VerificationError) as failure:
        run(layers(), planted.WrongConstantPass(), observers=[CheckNumbers()])
    message = failure.value.message
    assert "planted-wrong-constant changed what the model computes: output 'Y'[" in message
    assert "allowed 0.0001 (expected" in message
    assert "the guilty one is rewrite 6, at Relu 'layer5_relu'" in message


@pytest.mark.parametrize("wrong", [planted.UnaskedPass, planted.AllAtOncePass])
def test_a_pass_that_does_not_ask_for_each_is_pinned_by_the_first_value_that_differs(wrong: type[Pass]) -> None:
    with pytest.raises(VerificationError, match=r"first value that differs is 'r5', made by Abs 'layer5_relu'"):
        run(layers(), wrong(), observers=[CheckNumbers()])


def test_the_user_s_inputs_are_what_is_compared() -> None:
    """On large inputs, all above the wrong constant, the planted mistake does not show."""
    given = {"X": np.full((2, 4), 50, np.float32)}
    run(layers(), planted.WrongConstantPass(), observers=[CheckNumbers(given)])
    with pytest.raises(InputError, match="no input 'Z'"):
        run(layers(), planted.WrongConstantPass(), observers=[CheckNumbers({"Z": given["X"]})])


def test_a_lossy_pass_is_held_to_its_budget_against_the_original() -> None:
    numbers = CheckNumbers(budget=Tolerance.uniform(0.05))
    report = PassManager(Pipeline.of(*[planted.LossyPass()] * 2), [numbers]).run(layers())
    first, second = (step.error or 0 for step in report.steps)
    assert 0 < first < second < 0.05
    assert report.error == second
    with pytest.raises(VerificationError, match=r"allowed 0\.002"):
        run(layers(), *[planted.LossyPass()] * 4, observers=[CheckNumbers(budget=Tolerance.uniform(0.002))])


def test_a_model_without_outputs_to_compare_is_an_error() -> None:
    empty = model_of("g (float[2,3] X) => (float[0,3] Y) { Y = Slice(X, zero, zero) }", {"zero": np.array([0])})
    with pytest.raises(VerificationError, match="nothing was compared"):
        run(empty, planted.HarmlessPass(), observers=[CheckNumbers()])


def test_a_model_that_the_oracle_cannot_load_is_said_to_be_so() -> None:
    model = model_of(
        '<ir_version: 11, opset_import: ["" : 24, "mine" : 1]> g (float[2] X) => (float[2] Y) { Y = mine.Op(X) }'
    )
    with pytest.raises(OracleError, match="ONNX Runtime cannot load it"):
        run(model, planted.HarmlessPass(), observers=[CheckNumbers()])


@pytest.mark.parametrize("limit", [0, 3, 100])
def test_pass_limit_stops_rewriting_and_tells_the_last(limit: int) -> None:
    model = layers()
    observer = PassLimit(limit)
    run(model, planted.HarmlessPass(), observers=[observer])
    done = min(limit, planted.LAYERS)
    assert ops(model)["Max"] == observer.done == done
    expected = f"step 0, planted-harmless, at Relu 'layer{done - 1}_relu'" if done else ""
    assert observer.last == expected


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        PassLimit(-1)


def test_only_changes_are_printed() -> None:
    written: list[str] = []
    model = layers()
    run(model, planted.HarmlessAddPass(), planted.HarmlessPass(), observers=[PrintChanged(written.append)])
    (text,) = written
    lines = text.splitlines()
    assert lines[0] == "after step 1, planted-harmless (1)"
    # Each ReLU, and nothing else: what takes its place has its name, and so has the value.
    assert sum(line.startswith("- ") for line in lines) == planted.LAYERS
    assert "- r0: float32[2,4] = Relu(m0)" in lines
    assert any(line.startswith("+ ") and "= Max(m0, constant: float32 0.)" in line for line in lines)


def test_whole_graphs_are_printed_on_request() -> None:
    written: list[str] = []
    run(layers(), planted.HarmlessPass(), observers=[PrintChanged(written.append, whole=True)])
    assert len(written) == 2
    assert written[0].startswith("the model\n  g (X: float32[2,4]) => (Y)\n    m0: float32[2,4] = Add(X, w0: float32 [")
    assert written[1].count("= Max(") == planted.LAYERS


def test_nested_graphs_are_printed() -> None:
    written: list[str] = []
    text = """g (float[2] X, bool c) => (float[2] Y) { Y = If (c)
        <then_branch = a () => (float[2] T) { T = Relu(X) }, else_branch = b () => (float[2] E) { E = Neg(X) }> }"""
    run(model_of(text), planted.HarmlessPass(), observers=[PrintChanged(written.append)])
    assert [line for line in written[0].splitlines() if line.startswith("-")] == ["- T: float32[2] = Relu(X)"]


def test_timing_writes_a_line_for_each_step() -> None:
    written: list[str] = []
    run(layers(), planted.HarmlessAddPass(), planted.HarmlessPass(), observers=[Timing(written.append)])
    assert written[0].startswith("step 0, planted-harmless-add: ")
    assert written[0].endswith(", unchanged")
    assert written[1].endswith(", 17 -> 17 nodes")
    assert written[2].startswith("2 steps: ")


@pytest.mark.parametrize(
    ("wrong", "observers"),
    [
        (planted.RaisingPass, list),
        (planted.CyclePass, list),
        (planted.DanglingPass, lambda: [CheckStructure()]),
        (planted.WrongConstantPass, lambda: [CheckNumbers()]),
    ],
)
def test_a_reproducer_repeats_the_failure(
    wrong: type[Pass], observers: Callable[[], list[Observer]], tmp_path: Path
) -> None:
    checks = observers()
    numbers = next((o for o in checks if isinstance(o, CheckNumbers)), None)
    crash = CrashReproducer(tmp_path / "out", numbers)
    with pytest.raises(GraphOptError) as failure:
        run(layers(), planted.HarmlessAddPass(), wrong(), planted.HarmlessPass(), observers=[*checks, crash])
    place = crash.written
    assert place == tmp_path / "out" / f"g-step1-{wrong.name}"
    assert str(place) in failure.value.remedy
    text = (place / "README.txt").read_text()
    assert failure.value.message in text
    assert f"planted-harmless-add,{wrong.name},planted-harmless" in text
    assert f"graphopt optimize {place / 'model.onnx'} --passes {wrong.name}" in text
    assert (place / "inputs.npz").exists() == (numbers is not None)
    with pytest.raises(type(failure.value)):
        run(io.load(place / "model.onnx"), wrong(), observers=observers())


def test_a_reproducer_loads_the_module_of_a_loaded_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_loaded", [])
    registry.register(planted.RaisingPass)
    crash = CrashReproducer(tmp_path)
    with pytest.raises(PassError):
        run(layers(), planted.RaisingPass(), observers=[crash])
    assert crash.written is not None
    assert f"--load {planted.__file__}" in (crash.written / "README.txt").read_text()


def test_a_second_reproducer_does_not_overwrite_the_first(tmp_path: Path) -> None:
    places = []
    for _ in range(2):
        crash = CrashReproducer(tmp_path)
        with pytest.raises(PassError):
            run(layers(), planted.RaisingPass(), observers=[crash])
        places.append(crash.written)
    assert len(set(places)) == 2


def test_a_reproducer_that_cannot_be_written_does_not_hide_the_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PassError, match="the planted mistake") as failure:
        run(layers(), planted.RaisingPass(), observers=[CrashReproducer(tmp_path / "file")])
    assert "no reproducer could be written" in failure.value.remedy


def test_an_exact_pass_is_held_to_the_bits() -> None:
    assert planted.NotExactPass.fidelity is Fidelity.EXACT
    with pytest.raises(VerificationError, match="the bits differ"):
        run(layers(), planted.NotExactPass(), observers=[CheckNumbers()])
