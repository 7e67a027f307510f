"""What changed between two models is found, and nothing else."""

from __future__ import annotations

import numpy as np

from graphopt.analysis.diff import compare
from graphopt.rewriting.pipeline import PassManager, Pipeline
from tests.helpers import model_of

BEFORE = "g (float[2,3] x) => (float[2,4] y) { t = MatMul(x, w)  y = Add(t, b) }"
WEIGHTS = {"w": np.ones((3, 4), np.float32), "b": np.zeros(4, np.float32)}


def changes(before: str, after: str) -> dict[str, str]:
    found = compare(model_of(before, WEIGHTS), model_of(after, WEIGHTS))
    return {change.what: change.after for change in found.nodes}


def test_a_model_does_not_differ_from_itself() -> None:
    found = compare(model_of(BEFORE, WEIGHTS), model_of(BEFORE, WEIGHTS))
    assert found.is_empty
    assert found.to_json()["same"]
    assert not any(table.rows for table in found.tables())


def test_nodes_are_followed_through_a_fusion() -> None:
    before = model_of(BEFORE, WEIGHTS)
    after = before.copy()
    PassManager(Pipeline.parse("fuse-matmul-add")).run(after)
    found = compare(before, after)
    became = {change.what: (change.before, change.after) for change in found.nodes}
    assert set(became) == {"t", "y"}
    assert all("Gemm" in new for _, new in became.values())
    assert found.operators == {"Add": (1, 0), "Gemm": (0, 1), "MatMul": (1, 0)}


def test_nodes_that_went_came_and_changed() -> None:
    relu = BEFORE.replace("y = Add(t, b)", "u = Add(t, b)  y = Relu(u)")
    assert changes(BEFORE, relu)["(new)"].startswith("Relu") or "Relu" in changes(BEFORE, relu)["y"]
    assert changes(relu, relu.replace("Relu(u)", "LeakyRelu<alpha=0.5>(u)"))["y"] == "LeakyRelu 'y'"
    leaky = relu.replace("Relu(u)", "LeakyRelu<alpha=0.5>(u)")
    assert "alpha=0.25" in changes(leaky, leaky.replace("0.5", "0.25"))["y"]


def test_the_frame_and_the_weights() -> None:
    before, after = model_of(BEFORE, WEIGHTS), model_of(BEFORE, {**WEIGHTS, "b": np.ones(4, np.float32)})
    header = '<ir_version: 10, opset_import: ["" : 22], producer_name: "someone">'
    older = model_of(header + BEFORE.replace("float[2,3] x", "float[N,3] x"), WEIGHTS)
    assert [(c.what, c.after) for c in compare(before, after).weights] == [("b", "float32[4], 16 B (other numbers)")]
    frame = {change.what: (change.before, change.after) for change in compare(before, older).frame}
    assert frame["opset ai.onnx"] == ("24", "22")
    assert frame["IR version"] == ("11", "10")
    assert frame["producer"] == ("", "someone")
    assert frame["input x"] == ("float32[2,3]", "float32[N,3]")
    assert "output y" not in frame


def test_long_tables_are_cut() -> None:
    names = "x " + " ".join(f"v{i}" for i in range(50))
    chain = "  ".join(f"{b} = Relu({a})" for a, b in zip(names.split(), names.split()[1:]))
    model = model_of(f"g (float[2] x) => (float[2] v49) {{ {chain} }}")
    other = model_of(f"g (float[2] x) => (float[2] v49) {{ {chain.replace('Relu', 'Abs')} }}")
    table = next(table for table in compare(model, other).tables(10) if table.title == "nodes")
    assert len(table.rows) == 11
    assert table.rows[-1][0] == "... and 40 more"


def test_a_new_name_alone_is_no_change() -> None:
    renamed = model_of(BEFORE.replace("Add(t, b)", "Add(t, bias)"), {**WEIGHTS, "bias": WEIGHTS["b"]})
    assert not compare(model_of(BEFORE, WEIGHTS), renamed).weights


def test_constant_nodes_are_weights() -> None:
    constant = "b = Constant<value = float[4] {0, 0, 0, 0}>()"
    text = BEFORE.replace("{ t", f"{{ {constant}  t")
    found = compare(model_of(text, WEIGHTS), model_of(BEFORE, WEIGHTS))
    assert not found.weights
    assert not found.nodes
    assert found.operators["Constant"] == (1, 0)
