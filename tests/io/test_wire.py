"""Large weights stay in the file that a model is loaded from, and nothing else about the model changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt import io
from graphopt.errors import ModelError
from graphopt.io.wire import MAPPED_BYTES, without_weights
from tests.helpers import model_of

TEXT = """
<ir_version: 9, opset_import: ["" : 21]>
g (float[N, 512] x) => (float[N, 600] y) { h = MatMul(x, w) y = Add(h, b) }
"""


def saved(path: Path) -> dict[str, np.ndarray]:
    """A model of one weight that is mapped and one that is not, as onnx writes it."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(512, 600)).astype(np.float32), "b": np.arange(600, dtype=np.float32)}
    assert weights["w"].nbytes >= MAPPED_BYTES
    onnx.save(io.to_proto(model_of(TEXT, weights)), path)
    return weights


def test_large_weights_are_mapped_and_the_same(tmp_path: Path) -> None:
    weights = saved(tmp_path / "m.onnx")
    tensors = {name: value.tensor for name, value in io.load(tmp_path / "m.onnx").graph.initializers.items()}
    for name, array in weights.items():
        tensor = tensors[name]
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert (tensor.location is not None) == (name == "w")


def test_it_is_saved_over_itself(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    weights = saved(path)
    model = io.load(path)
    for again in (model, model, io.load(path)):
        io.save(again, path)
    tensors = {name: value.tensor for name, value in io.load(path).graph.initializers.items()}
    for name, array in weights.items():
        tensor = tensors[name]
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_a_link_to_a_model_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    weights = saved(tmp_path / "store" / "blob")
    (tmp_path / "m.onnx").symlink_to(tmp_path / "store" / "blob")
    tensor = io.load(tmp_path / "m.onnx").graph.initializers["w"].tensor
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), weights["w"])


def test_what_is_left_is_the_message_without_the_weight(tmp_path: Path) -> None:
    saved(tmp_path / "m.onnx")
    data = (tmp_path / "m.onnx").read_bytes()
    stripped = without_weights(memoryview(data), "m.onnx")
    assert stripped is not None
    light, places = stripped
    assert list(places) == ["w"]
    assert len(light) < len(data) - MAPPED_BYTES
    (tmp_path / "light.onnx").write_bytes(light)
    read = onnx.load(tmp_path / "light.onnx")
    for tensor in read.graph.initializer:
        tensor.ClearField("data_location")
    assert read == onnx.load(tmp_path / "m.onnx")


@pytest.mark.parametrize("end", [100, 5000, 1_200_000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, end: int) -> None:
    saved(tmp_path / "m.onnx")
    data = (tmp_path / "m.onnx").read_bytes()[:end]
    assert without_weights(memoryview(data), "m.onnx") is None
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"not an ONNX model, or it is truncated|no graph|takes"):
        io.load(tmp_path / "m.onnx")


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_are_refused_or_left_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, int(rng.integers(0, 4000)), np.uint8).tobytes()
    assert without_weights(memoryview(data), "m.onnx") is None
