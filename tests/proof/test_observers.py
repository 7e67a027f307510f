from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphopt import io, registry
from graphopt.compression.budget import Budget
from graphopt.compression.evaluation import Evaluation
from graphopt.data.inputs import generate
from graphopt.data.samples import Samples
from graphopt.errors import GraphOptError, InputError, PassError, VerificationError
from graphopt.hardware.target import load as load_target
from graphopt.ir import Model, infer_shapes
from graphopt.proof.metrics import Metric
from graphopt.proof.observers import (
    CheckBudget,
    CheckNumbers,
    CheckStructure,
    CrashReproducer,
    PassLimit,
    PrintChanged,
    Timing,
)
from graphopt.proof.oracle import OracleError
from graphopt.proof.tolerance import Tolerance
from graphopt.rewriting.passes import Fidelity, Pass
from graphopt.rewriting.pipeline import Observer, PassManager, Pipeline, Step
from graphopt.rewriting.report import Report
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
    with pytest.raises(VerificationError, match=f"{wrong.name} left an invalid graph.*rewrite 6, at Relu"):
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
    assert "the faulty one is rewrite 6, at Relu 'layer5_relu'" in message


@pytest.mark.parametrize("wrong", [planted.UnaskedPass, planted.AllAtOncePass])
def test_a_pass_that_does_not_ask_for_each_is_pinned_by_the_first_value_that_differs(wrong: type[Pass]) -> None:
    with pytest.raises(VerificationError, match=r"first value that differs is 'r5', produced by Abs 'layer5_relu'"):
        run(layers(), wrong(), observers=[CheckNumbers()])


def test_the_user_s_inputs_are_what_is_compared() -> None:
    """On large inputs, all above the wrong constant, the planted mistake does not show."""
    given = {"X": np.full((2, 4), 50, np.float32)}
    run(layers(), planted.WrongConstantPass(), observers=[CheckNumbers(given)])
    with pytest.raises(InputError, match="no input 'Z'"):
        run(layers(), planted.WrongConstantPass(), observers=[CheckNumbers({"Z": given["X"]})])


def held_to(max_drop: float) -> tuple[Model, Evaluation]:
    model = layers()
    samples = Samples([generate(model, seed=seed).inputs for seed in range(3)], model)
    return model, Evaluation(samples, metric=Metric.parse("error-max"), budget=Budget(max_drop), original=model.copy())


def test_a_lossy_pass_is_held_to_its_budget_against_the_original() -> None:
    model, evaluation = held_to(0.05)
    observers = [CheckBudget(evaluation), CheckNumbers()]
    report = PassManager(Pipeline.of(*[planted.LossyPass()] * 2), observers, evaluation=evaluation).run(model)
    first, second = (step.loss or 0 for step in report.steps)
    assert 0 < first < second < 0.05
    assert report.loss == second
    assert Report.from_json(report.to_json()) == report
    model, evaluation = held_to(0.002)
    manager = PassManager(Pipeline.of(*[planted.LossyPass()] * 4), [CheckBudget(evaluation)], evaluation=evaluation)
    with pytest.raises(VerificationError, match=r"loses too much: .*error-max.*only 0\.200% may be lost") as failure:
        manager.run(model)
    assert "planted-lossy" in failure.value.where


def test_a_lossy_pass_without_a_budget_is_held_to_the_tolerance() -> None:
    with pytest.raises(VerificationError, match=r"allowed 1e-06"):
        run(layers(), planted.LossyPass(), observers=[CheckNumbers(tolerance=Tolerance.uniform(1e-6))])


class _Lent(Observer):
    """Keeps what was lent before each step."""

    needs_before = True

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def before(self, step: Step, model: Model) -> None:
        assert step.before is not None
        assert step.before.version == model.version
        self.steps.append(step)


def test_observers_share_one_copy_which_is_made_anew_only_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Model] = []
    copy = Model.copy
    monkeypatch.setattr(Model, "copy", lambda model: made.append(copy(model)) or made[-1])
    observers = [_Lent(), _Lent(), CheckStructure(), CheckNumbers(), CrashReproducer("nowhere")]
    run(layers(), planted.HarmlessAddPass(), planted.HarmlessPass(), planted.HarmlessAddPass(), observers=observers)
    first, second = observers[:2]
    assert isinstance(first, _Lent)
    assert isinstance(second, _Lent)
    assert [step.before for step in first.steps] == [step.before for step in second.steps]
    assert [step.before for step in first.steps] == [made[0], made[0], made[1]]
    assert len(made) == 2


def test_nothing_is_copied_where_nobody_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "copy", lambda model: pytest.fail("copied"))
    run(layers(), planted.HarmlessPass(), observers=[Timing(lambda text: None)])


def test_the_guilty_rewrite_of_a_pass_that_needs_the_target_is_found(tmp_path: Path) -> None:
    """And its reproducer says for which target: without one the pass does nothing."""
    target = load_target("x86:v4")
    observers = [numbers := CheckNumbers(), crash := CrashReproducer(tmp_path, numbers)]
    with pytest.raises(VerificationError, match="the faulty one is rewrite 6, at Relu 'layer5_relu'"):
        PassManager(Pipeline.of(planted.ForTargetPass()), observers, target).run(layers())
    assert crash.written is not None
    assert "--target x86:v4" in (crash.written / "README.txt").read_text()
    own = dataclasses.replace(target, name="host", cores=3)
    with pytest.raises(VerificationError):
        PassManager(Pipeline.of(planted.ForTargetPass()), observers, own).run(layers())
    file = crash.written / "target.toml"
    assert f"--target {file}" in (crash.written / "README.txt").read_text()
    assert dataclasses.replace(load_target(file), name="host") == own


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
