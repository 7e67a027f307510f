"""The benchmark against other runtimes, and the check of compiled models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import io
from graphopt.errors import CompileError
from graphopt.runtime import Session
from tests.helpers import model_of
from tools import bench, check_models
from tools.catalogue import LIGHT, NAMES, SIZES, entry
from tools.fetch_models import MODELS

TEXT = "small (float[N,4] x) => (float[N,4] y) { t = Mul(x, x)  y = Add(t, x) }"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A model with a dynamic batch, in a file."""
    path = tmp_path / "small.onnx"
    io.save(model_of(TEXT), path)
    return path


def row(model: str, threads: int, **p50: float) -> dict[str, Any]:
    timings = {name: {"p50": value, "p90": 2 * value} for name, value in p50.items()}
    return {"model": model, "threads": threads, "timings": timings, "errors": {}, "failures": {}}


def test_the_catalogue_names_models_that_can_be_had() -> None:
    assert set(NAMES) == {"fashion", "bert", *MODELS, *LIGHT} - {"silero-vad"}
    assert set(SIZES) <= set(NAMES)
    assert all(len(sizes) == 3 for sizes in SIZES.values())


def test_a_file_is_an_entry_of_its_own(small: Path) -> None:
    assert entry(str(small)).name == "small"
    assert entry(str(small)).sizes == ({},)
    with pytest.raises(FileNotFoundError, match="neither a file nor one of"):
        entry("no-such-model")


def test_shapes_are_fixed_for_all_peers(small: Path) -> None:
    fixed = bench.fixed(small, {"x": (3, 4)})
    assert [d.dim_value for d in fixed.graph.input[0].type.tensor_type.shape.dim] == [3, 4]


def test_the_ratio_is_that_of_the_medians() -> None:
    rows = [row("a", 1, onnxruntime=0.002, graphopt=0.001), row("b", 2, onnxruntime=0.002)]
    cells = bench.table(rows).rows
    assert cells[0] == ("a", "1", "2.00 ms", "-", "1.00 ms", "2.00 ms", "2.00x", "-")
    assert cells[1] == ("b", "2", "2.00 ms", "-", "-", "-", "-", "-")


def test_the_picture_is_drawn_with_gaps_where_nothing_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [row("a", 1, onnxruntime=0.002, graphopt=0.001), row("b", 1, graphopt=0.001), row("a", 2)]
    bench.draw(rows, "title", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_models_are_measured_beside_each_other(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "result"
    assert bench.main([str(small), "--threads", "1", "2", "--runs", "2", "-o", str(output)]) == 0
    result = json.loads(output.with_suffix(".json").read_text())
    assert [(r["model"], r["threads"]) for r in result["rows"]] == [("small", 1), ("small", 2)]
    for found in result["rows"]:
        assert {"onnxruntime", "graphopt"} <= set(found["timings"])
        assert found["timings"]["graphopt"]["runs"] == 2
        assert found["errors"]["graphopt"] < 1e-6
        assert not found["failures"]
    assert result["machine"]["date"].endswith("+00:00")
    assert result["machine"]["versions"]["graphopt"] == graphopt.__version__
    assert output.with_suffix(".png").is_file()


def test_what_cannot_be_compiled_is_reported_and_the_others_measured(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")

    def broken(*args: Any, **kwargs: Any) -> None:
        raise CompileError("the compiler broke")

    monkeypatch.setattr(graphopt, "compile", broken, raising=False)
    assert bench.main([str(small), "--threads", "1", "--runs", "1", "-o", str(tmp_path / "result")]) == 1
    assert "small, 1 threads, graphopt: the compiler broke" in capsys.readouterr().err
    (found,) = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert "onnxruntime" in found["timings"]
    assert "graphopt" not in found["timings"]


def test_a_peer_whose_outputs_differ_is_not_timed(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "run", lambda self, feed: {"y": np.zeros((2, 4), np.float32)})
    (found,) = bench.measure(entry(str(small)), [1], runs=1, seconds=1)
    assert found["failures"]["graphopt"].startswith("outputs differ: output 'y'")
    assert "graphopt" not in found["timings"]
    assert "onnxruntime" in found["timings"]


@pytest.mark.parametrize("tool", [bench, check_models])
def test_an_unknown_model_means_status_2(tool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["no-such-model"]) == 2
    assert "neither a file nor one of" in capsys.readouterr().err


def test_a_model_that_agrees(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_models.main([str(small), "--json", str(tmp_path / "found.json")]) == 0
    assert "yes" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert found["failure"] is None
    assert len(found["errors"]) == 1


def test_a_model_that_does_not_agree(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Session.run
    monkeypatch.setattr(Session, "run", lambda self, x: {k: v * 2 for k, v in real(self, x).items()})
    assert check_models.main([str(small), "--no-verify"]) == 1
    assert "output 'y'" in capsys.readouterr().out


def test_a_model_that_cannot_be_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert check_models.main([str(tmp_path / "odd.onnx"), "--no-verify"]) == 1
    assert "Unheard" in capsys.readouterr().out
