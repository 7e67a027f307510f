"""A graph saved without its weights: after reading, only the contents of large tensors are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt import io
from graphopt.analysis.diff import compare
from graphopt.analysis.statistics import measure
from graphopt.errors import ModelError
from graphopt.ir import Model
from tests.helpers import model_of

TEXT = """
<ir_version: 9, opset_import: ["" : 21]>
g (float[N, 40] x, bool c) => (float[N, 5, 8] y)
<int64[3] shape = {0, 5, 8}>
{
  h = MatMul(x, w)
  k = If (c) <
    then_branch = t () => (float[N, 40] a) { big = Constant<value = float[300] {VALUES}>() a = Add(h, w0) },
    else_branch = e () => (float[N, 40] b) { b = Neg(h) }
  >
  y = Reshape(k, shape)
}
""".replace("VALUES", ",".join(["1.5"] * 300))


def model(factor: float = 1.0) -> Model:
    w = np.linspace(0, 1, 1600, dtype=np.float32).reshape(40, 40) * np.float32(factor)
    return model_of(TEXT, {"w": w, "w0": w[0].copy()})


def written(folder: Path, factor: float = 1.0) -> Model:
    io.save_graph(model(factor), folder / "graph.onnx")
    return io.load(folder / "graph.onnx")


def test_the_file_is_small_and_keeps_what_says_how_to_compute(tmp_path: Path) -> None:
    graph = written(tmp_path)
    assert (tmp_path / "graph.onnx").stat().st_size < 2000
    shape = graph.graph.initializers["shape"].tensor
    assert shape is not None
    assert shape.numpy().tolist() == [0, 5, 8]
    assert measure(graph).to_json()["parameters"] == measure(model()).to_json()["parameters"]


def test_it_differs_from_the_model_where_weights_differ(tmp_path: Path) -> None:
    graph = written(tmp_path)
    assert compare(model(), graph).is_empty
    assert not compare(model(2.0), graph).is_empty


def test_elements_that_were_left_out_are_asked_for(tmp_path: Path) -> None:
    tensor = written(tmp_path).graph.initializers["w"].tensor
    assert tensor is not None
    with pytest.raises(ModelError, match=r"tensor 'w'.*was written without weights") as caught:
        tensor.numpy()
    assert "--keep-model" in caught.value.remedy


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    written(tmp_path)
    first = (tmp_path / "graph.onnx").read_bytes()
    written(tmp_path)
    assert (tmp_path / "graph.onnx").read_bytes() == first
