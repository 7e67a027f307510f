"""The check of compiled models against ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from graphopt import io
from graphopt.runtime.session import Session
from tests.helpers import model_of
from tools import check_models

TEXT = "small (float[N,4] x) => (float[N,4] y) { t = Mul(x, x)  y = Add(t, x) }"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A model with a dynamic batch, in a file."""
    path = tmp_path / "small.onnx"
    io.save(model_of(TEXT), path)
    return path


def test_an_unknown_model_means_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_models.main(["no-such-model"]) == 2
    assert "neither a file nor one of" in capsys.readouterr().err


def test_a_model_that_agrees(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_models.main([str(small), "--json", str(tmp_path / "found.json")]) == 0
    assert "yes" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert found["failure"] is None
    assert len(found["errors"]) == 1
    assert 0 < found["kernel_seconds"] < found["processor_seconds"]


def test_limits_make_failures(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--most-seconds", "1000", "--most-kernel-seconds", "1e-6"]
    assert check_models.main([str(small), "--no-verify", *limits]) == 1
    assert "(t +1) took" in capsys.readouterr().out
    row = {"failure": None, "declined": None, "seconds": 3.0}
    check_models.hold(row, 3.0, 1.0)
    assert row["failure"] is None
    check_models.hold(row, 2.0, 1.0)
    assert row["failure"] == "compiling took 3.00 s, and 2 s are allowed"


def test_a_model_that_does_not_agree(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Session.run
    monkeypatch.setattr(Session, "run", lambda self, x: {k: v * 2 for k, v in real(self, x).items()})
    assert check_models.main([str(small), "--no-verify"]) == 1
    assert "output 'y'" in capsys.readouterr().out


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A model with an operator that nobody has."""
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Unheard", ["x"], ["y"], domain="some.where", name="odd")],
            "odd",
            [onnx.helper.make_tensor_value_info("x", 1, [2])],
            [onnx.helper.make_tensor_value_info("y", 1, [2])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("some.where", 1)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "odd.onnx")
    return tmp_path / "odd.onnx"


def test_a_model_that_cannot_be_compiled(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_models.main([str(odd), "--no-verify"]) == 1
    assert "Unheard" in capsys.readouterr().out


def test_what_is_known_to_be_lacking_is_declined_for_that_alone(
    odd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(check_models.LACKING, "odd", "Unheard")
    assert check_models.main([str(odd), "--no-verify", "--most-seconds", "0"]) == 0
    assert "declined" in capsys.readouterr().out
    monkeypatch.setitem(check_models.LACKING, "odd", "LSTM")
    assert check_models.main([str(odd), "--no-verify"]) == 1
