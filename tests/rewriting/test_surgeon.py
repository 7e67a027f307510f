from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphopt import registry
from graphopt.errors import PassError
from graphopt.rewriting.passes import Fidelity, PassContext
from graphopt.rewriting.pipeline import PassManager, Pipeline
from graphopt.surgeon import surgeon_pass
from tests.helpers import check_pass, model_of, ops

DROPOUT = "g (float[N,3] X) => (float[N,3] Y) { [one] a = Relu(X) [drop] b = Dropout(a) [two] Y = Neg(b) }"


@surgeon_pass(name="test-drop-dropout", fidelity=Fidelity.EXACT)
def drop_dropout(graph: gs.Graph) -> None:
    """Removes every Dropout."""
    for node in graph.nodes:
        if node.op == "Dropout":
            for user in list(node.outputs[0].outputs):
                user.inputs = [node.inputs[0] if t is node.outputs[0] else t for t in user.inputs]
    graph.cleanup().toposort()


@surgeon_pass
def add_softmax_(graph: gs.Graph) -> gs.Graph:
    (old,) = graph.outputs
    new = gs.Variable("softmax_out", dtype=np.float32, shape=old.shape)
    graph.nodes.append(gs.Node("Softmax", inputs=[old], outputs=[new]))
    graph.outputs = [new]
    return graph


def test_a_function_becomes_a_pass() -> None:
    assert drop_dropout.summary() == "Removes every Dropout."
    assert drop_dropout.fidelity is Fidelity.EXACT
    assert add_softmax_.name == "add-softmax"
    assert add_softmax_.fidelity is Fidelity.FLOAT
    check_pass(drop_dropout(), DROPOUT, "g (float[N,3] X) => (float[N,3] Y) { a = Relu(X) Y = Neg(a) }")


def test_a_function_that_changes_nothing_leaves_the_version() -> None:
    model = model_of("g (float[N,3] X) => (float[N,3] Y) { Y = Neg(X) }")
    version = model.version
    drop_dropout().run(model.graph, PassContext(model))
    assert model.version == version


def test_origins_survive_with_names() -> None:
    model = model_of(DROPOUT)
    add_softmax_().run(model.graph, PassContext(model))
    assert {node.op: node.origin for node in model.graph.nodes} == {
        "Relu": ("one",),
        "Dropout": ("drop",),
        "Neg": ("two",),
        "Softmax": (),
    }
    assert [value.name for value in model.graph.outputs] == ["softmax_out"]


def test_what_is_around_the_graph_survives() -> None:
    text = '<ir_version: 11, opset_import: ["" : 24], producer_name: "me", metadata_props: ["k" : "v"]> ' + DROPOUT
    model = model_of(text)
    drop_dropout().run(model.graph, PassContext(model))
    assert ops(model) == {"Relu": 1, "Neg": 1}
    assert model.producer_name == "me"
    assert model.metadata == {"k": "v"}
    assert model.opset == 24


def test_nested_graphs_survive() -> None:
    text = """g (float[2] X, bool c) => (float[2] Y) { d = Dropout(X) Y = If (c)
        <then_branch = a () => (float[2] T) { T = Relu(d) }, else_branch = b () => (float[2] E) { E = Neg(d) }> }"""
    model = check_pass(add_nothing(), text, changes=False)
    assert ops(model) == {"Dropout": 1, "If": 1, "Relu": 1, "Neg": 1}


@surgeon_pass(fidelity=Fidelity.EXACT)
def add_nothing(graph: gs.Graph) -> gs.Graph:
    return graph


@surgeon_pass
def leave_rubbish(graph: gs.Graph) -> None:
    graph.nodes[0].inputs = [gs.Variable("nobody", dtype=np.float32)]


def test_an_invalid_result_is_a_pass_error() -> None:
    model = model_of(DROPOUT)
    with pytest.raises(PassError, match="the graph that it left cannot be exported") as failure:
        PassManager(Pipeline.of(leave_rubbish())).run(model)
    assert "leave-rubbish" in failure.value.where


def test_sequences_are_refused_rather_than_lost() -> None:
    model = model_of("g (seq(float[3]) S) => (float[3] Y) { Y = SequenceAt(S, i) }", {"i": np.array(0)})
    with pytest.raises(PassError, match="'S' is not a tensor"):
        add_nothing().run(model.graph, PassContext(model))


def test_it_is_found_in_a_loaded_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_loaded", [])
    module = tmp_path / "surgeon_module.py"
    module.write_text(
        "from graphopt.surgeon import surgeon_pass\n\n"
        "@surgeon_pass(name='from-a-script')\n"
        "def anything(graph):\n"
        "    '''Does nothing.'''\n"
    )
    (found,) = registry.load_module(str(module))
    assert found.name == "from-a-script"
    assert str(Pipeline.parse("from-a-script")) == "from-a-script"
