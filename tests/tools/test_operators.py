"""The models of single operators: valid, reproducible, and with the outputs that their graphs declare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphopt import io
from graphopt.data import inputs
from tools.operators import OPERATORS, main, make


@pytest.mark.parametrize("name", OPERATORS)
def test_a_model_of_each(name: str) -> None:
    model = make(name)
    assert model.SerializeToString() == make(name).SerializeToString()
    assert all(value.name.isupper() for value in model.graph.input), "weights are constants"
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    sample = inputs.generate(io.load(model))
    for array, value in zip(session.run(None, sample.inputs), model.graph.output, strict=True):
        assert list(array.shape) == [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert array.dtype.kind != "f" or np.isfinite(array).all()


def test_writes_those_asked_for(tmp_path: Path) -> None:
    assert main(["softmax", "exp", "-o", str(tmp_path / "models")]) == 0
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["exp.onnx", "softmax.onnx"]
    onnx.checker.check_model(str(tmp_path / "models" / "exp.onnx"))


def test_refuses_what_it_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["soft", "-o", str(tmp_path / "models")])
    assert end.value.code == 2
    assert "softmax" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_says_where_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["exp", "-o", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
