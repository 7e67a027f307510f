from __future__ import annotations

import sys
from pathlib import Path

import pytest

from graphopt.data.inputs import generate
from graphopt.errors import GraphOptError, VerificationError
from graphopt.ir import Model, infer_shapes
from graphopt.proof.bisect import bisect
from graphopt.proof.checks import command_check, numbers_check
from graphopt.proof.tolerance import EXACT, Tolerance
from graphopt.rewriting.passes import Pass
from graphopt.rewriting.pipeline import Pipeline
from tests import planted
from tests.helpers import model_of, ops


@pytest.fixture(scope="module")
def model() -> Model:
    model = model_of(planted.MODEL, planted.WEIGHTS)
    infer_shapes(model)
    return model


def pipeline_with(wrong: type[Pass]) -> Pipeline:
    before = [planted.HarmlessAddPass()] * 5
    return Pipeline.of(*before, wrong(), *[planted.HarmlessPass()] * 3)


@pytest.mark.parametrize(
    "wrong", [cls for cls in planted.WRONG if cls is not planted.WrongTypePass], ids=lambda cls: cls.name
)
def test_the_guilty_pass_and_rewrite_are_found(wrong: type[Pass], model: Model) -> None:
    sample = generate(model)
    tolerance = EXACT if wrong is planted.NotExactPass else Tolerance()
    version = model.version
    culprit = bisect(model, pipeline_with(wrong), numbers_check(sample.inputs, sample.outputs, tolerance))
    assert culprit is not None
    assert culprit.pass_name == wrong.name
    assert culprit.step.index == 5
    assert culprit.complaint
    if wrong in (planted.UnaskedPass, planted.AllAtOncePass):
        assert culprit.rewrite is None
    else:
        assert culprit.rewrite is not None
        assert culprit.rewrite.number == (1 if wrong is planted.NotExactPass else 6)
        assert "layer5" in culprit.rewrite.node
        assert f"step 5, {wrong.name} (at 5 of the pipeline), rewrite" in str(culprit)
    assert model.version == version


def test_a_pipeline_that_passes_has_no_culprit(model: Model) -> None:
    sample = generate(model)
    check = numbers_check(sample.inputs, sample.outputs, Tolerance())
    assert bisect(model, Pipeline.of(planted.HarmlessPass()), check) is None


def test_a_model_that_fails_before_any_pass_is_refused(model: Model) -> None:
    with pytest.raises(VerificationError, match="fails the check before any pass: no good"):
        bisect(model, Pipeline.of(planted.HarmlessPass()), lambda _: "no good")


def test_few_checks_are_made(model: Model) -> None:
    said: list[str] = []
    passes = [planted.HarmlessAddPass()] * 60 + [planted.DroppedNodePass()]
    culprit = bisect(
        model,
        Pipeline.of(*passes),
        lambda tried: "a ReLU is gone" if ops(tried)["Max"] + ops(tried)["Relu"] < planted.LAYERS else "",
        progress=said.append,
    )
    assert culprit is not None
    assert (culprit.step.index, culprit.checks) <= (60, 16)
    assert any(text.startswith("the first 30 steps: good") for text in said)


def test_an_external_command_can_be_the_check(model: Model, tmp_path: Path) -> None:
    script = tmp_path / "check.py"
    script.write_text(
        "import sys, onnx\n"
        "ops = [node.op_type for node in onnx.load(sys.argv[2]).graph.node]\n"
        "assert sys.argv[1] == '--model'\n"
        "sys.exit('a maximum' if ops.count('Max') > 2 else 0)\n"
    )
    check = command_check(f"{sys.executable} {script} --model {{model}}")
    culprit = bisect(model, Pipeline.of(planted.HarmlessAddPass(), planted.HarmlessPass()), check)
    assert culprit is not None
    assert culprit.pass_name == "planted-harmless"
    assert culprit.rewrite is not None
    assert culprit.rewrite.number == 3
    assert culprit.complaint == "the check command ended with status 1: a maximum"


def test_the_model_is_added_to_a_command_that_does_not_place_it(model: Model) -> None:
    assert command_check(f"{sys.executable} -c 'import sys, onnx; onnx.load(sys.argv[1])'")(model) == ""


def test_a_command_that_cannot_be_started_is_an_error(model: Model) -> None:
    with pytest.raises(GraphOptError, match="cannot be started"):
        command_check("/no/such/command")(model)
    with pytest.raises(GraphOptError, match="is empty"):
        command_check(" ")
