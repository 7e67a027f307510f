"""Models with random weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.proof.oracle import run_reference
from tools.make_models import LIGHT, NAMES, main, make_bert, make_large, make_light

SMALL = {"layers": 2, "hidden": 32, "heads": 4, "vocabulary": 100, "positions": 16}


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def run(model: onnx.ModelProto, **inputs: Any) -> dict[str, np.ndarray]:
    return run_reference(model, inputs)


@pytest.fixture(scope="module")
def squeezenet() -> onnx.ModelProto:
    return make_light("squeezenet")


@pytest.fixture(scope="module")
def bert() -> onnx.ModelProto:
    return make_bert(**SMALL)


def test_a_light_model_holds_all_its_weights(squeezenet: onnx.ModelProto) -> None:
    onnx.checker.check_model(squeezenet, full_check=True)
    assert operators(squeezenet)["ConstantOfShape"] == 0
    assert [i.name for i in squeezenet.graph.input] == ["data_0"]
    names = [t.name for t in squeezenet.graph.initializer]
    assert len(names) == len(set(names))
    assert set(names) <= {name for node in squeezenet.graph.node for name in node.input}
    assert 4_900_000 < squeezenet.ByteSize() < 5_000_000


def test_a_light_model_gives_outputs_that_can_be_compared(squeezenet: onnx.ModelProto) -> None:
    image = np.random.default_rng(1).standard_normal((1, 3, 224, 224), np.float32)
    (output,) = run(squeezenet, data_0=image).values()
    assert output.sum() == pytest.approx(1, abs=1e-4)
    assert output.max() < 0.5
    assert (output > 1e-6).mean() > 0.9


def test_the_same_seed_gives_the_same_weights(squeezenet: onnx.ModelProto) -> None:
    same, other = make_light("squeezenet"), make_light("squeezenet", seed=1)
    assert same.SerializeToString(deterministic=True) == squeezenet.SerializeToString(deterministic=True)
    assert other.graph.initializer[0].raw_data != squeezenet.graph.initializer[0].raw_data


def test_batch_norms_of_a_light_model_have_positive_parameters() -> None:
    model = make_light("shufflenet")
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert len(norms) == 49
    for node in norms:
        assert weights[node.input[1]].min() > 0
        assert weights[node.input[4]].min() > 0


def test_every_light_model_is_in_the_onnx_package() -> None:
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    assert {f"light_{file}.onnx" for file in LIGHT.values()} == {p.name for p in folder.glob("*.onnx")}


def test_bert_is_exported_naively(bert: onnx.ModelProto) -> None:
    onnx.checker.check_model(bert, full_check=True)
    found = operators(bert)
    layers = SMALL["layers"]
    assert found["ReduceMean"] == 2 * (2 * layers + 1)
    assert found["Erf"] == found["Softmax"] == layers
    assert found["MatMul"] == layers * (4 + 2 + 2)
    assert found["LayerNormalization"] == found["Gelu"] == found["Attention"] == 0
    assert bert.opset_import[0].version == 14


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 7), (1, 16)])
def test_bert_takes_any_batch_and_length(bert: onnx.ModelProto, batch: int, length: int) -> None:
    ids = np.random.default_rng(0).integers(0, SMALL["vocabulary"], (batch, length))
    ones = np.ones_like(ids)
    outputs = run(bert, input_ids=ids, attention_mask=ones, token_type_ids=0 * ones)
    assert outputs["last_hidden_state"].shape == (batch, length, SMALL["hidden"])
    assert outputs["pooler_output"].shape == (batch, SMALL["hidden"])
    assert 0.5 < outputs["last_hidden_state"].std() < 2


def test_bert_does_not_see_what_is_masked(bert: onnx.ModelProto) -> None:
    ids = np.arange(8, dtype=np.int64)[None]
    mask = np.array([[1, 1, 1, 1, 1, 0, 0, 0]], np.int64)
    changed = ids.copy()
    changed[0, 6] = 99
    before, after = (
        run(bert, input_ids=x, attention_mask=mask, token_type_ids=0 * ids)["last_hidden_state"] for x in (ids, changed)
    )
    assert np.array_equal(before[:, :5], after[:, :5])
    assert not np.array_equal(before[:, 6], after[:, 6])


def test_bert_with_a_fixed_sequence() -> None:
    model = make_bert(**SMALL, sequence=5)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [0, 5]


def test_heads_must_divide_hidden() -> None:
    with pytest.raises(ValueError, match="not a multiple of heads"):
        make_bert(1, 30, 4)


@pytest.mark.parametrize("shape", ["chain", "wide"])
@pytest.mark.parametrize("n_nodes", [1, 50, 1000, 1026])
def test_large_graphs_have_the_size_asked_for_and_compute(shape: str, n_nodes: int) -> None:
    model = make_large(n_nodes, shape)
    onnx.checker.check_model(model, full_check=True)
    assert n_nodes <= len(model.graph.node) <= n_nodes + 60
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 6), np.float32)
    y = run(model, x=x)["y"]
    assert y.shape == x.shape
    assert np.isfinite(y).all()
    assert not np.array_equal(y[0], y[1])


def test_a_wide_graph_reads_its_input_many_times() -> None:
    uses = Counter(name for node in make_large(1000, "wide").graph.node for name in node.input)
    assert uses["x"] > 30
    assert Counter(name for node in make_large(1000, "chain").graph.node for name in node.input)["x"] < 5


def test_another_shape_of_graph_is_refused() -> None:
    with pytest.raises(ValueError, match="neither 'chain' nor 'wide'"):
        make_large(10, "ring")


def test_the_command_line_writes_what_the_functions_make(tmp_path: Path) -> None:
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    assert main(["bert", "chain", "--nodes=50", *options, "-o", str(tmp_path)]) == 0
    assert (tmp_path / "bert.onnx").read_bytes() == make_bert(**SMALL).SerializeToString(deterministic=True)
    assert onnx.load(tmp_path / "chain-50.onnx").graph.name == "chain"


def test_the_command_line_reports_what_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bert", "--hidden", "30", "--heads", "4", "-o", str(tmp_path)]) == 2
    assert "not a multiple" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["nothing-of-that-name", "-o", str(tmp_path)])
    assert set(NAMES) == {*LIGHT, "bert", "chain", "wide"}
