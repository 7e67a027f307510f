"""freeze-defaults: inputs with defaults become constants, only on request."""

from __future__ import annotations

import graphopt
from graphopt.passes.normalize.freeze_defaults import FreezeDefaults
from graphopt.proof.observers import CheckNumbers, CheckStructure
from graphopt.rewriting.pipeline import PassManager, Pipeline
from tests.helpers import check_declines, model_of

TEXT = "g (float[N,2] X, float[1,2] b = {1, 2}) => (float[N,2] Y) { Z = Abs(b)  Y = Add(X, Z) }"


def test_a_default_becomes_a_constant() -> None:
    result = model_of(TEXT)
    report = PassManager(Pipeline.of(FreezeDefaults()), [CheckStructure(), CheckNumbers()]).run(result)
    assert report.steps[0].counts["inputs frozen"] == 1
    assert [value.name for value in result.graph.inputs] == ["X"]
    assert result.graph.find("b").constant is not None


def test_nothing_is_folded_unless_it_is_asked_for() -> None:
    kept, _ = graphopt.optimize(model_of(TEXT))
    assert [node.op_type for node in kept.graph.nodes] == ["Abs", "Add"]
    frozen, _ = graphopt.optimize(model_of(TEXT), "freeze-defaults,default")
    assert [node.op_type for node in frozen.graph.nodes] == ["Add"]


def test_a_model_without_defaults_stays() -> None:
    check_declines(FreezeDefaults(), "g (float[N] X) => (float[N] Y) { Y = Relu(X) }")
