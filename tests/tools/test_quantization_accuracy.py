"""The table of what quantization costs: made with few images, and put into a guide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fashion import labelled
from tools import quantization_accuracy
from tools.quantizing.quantizers import quantizers
from tools.quantizing.table import best_of, replace_table, table
from tools.training.dataset import as_input, load_split

SETTINGS = {"network": "demo", "settings": ""}


def row(kind: str, accuracy: float, changed: int = 0, size: int = 1000, settings: str = "") -> dict[str, Any]:
    """A row of 1,000 test images."""
    worse = round(10 * (92 - accuracy)) + 3
    facts = {"accuracy": accuracy, "bytes": size, "images": 1000}
    facts |= {"changed": changed, "worse": worse, "better": 3, "decibels": 20.0}
    return {**SETTINGS, "kind": kind, "settings": settings, **facts}


def write_idx(path: Path, array: np.ndarray) -> None:
    sizes = np.array(array.shape, ">i4").tobytes()
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small copy of the data set: 20 images to calibrate on, 300 others."""
    for split, start, count in (("train", 900, 20), ("t10k", 0, 300)):
        images, labels = labelled(count, start)
        write_idx(tmp_path / f"{split}-images-idx3-ubyte", np.rint(images[:, 0] * 255))
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte", labels)
    return tmp_path


def test_the_data_set_is_read_as_it_was_written(dataset: Path) -> None:
    images, labels = load_split(dataset, "t10k")
    wanted, classes = labelled(300)
    assert np.array_equal(as_input(images), wanted)
    assert np.array_equal(labels, classes)


def test_the_demo_is_measured(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, guide = tmp_path / "rows.json", tmp_path / "guide.md"
    guide.write_text("before\n<!-- made by tools/quantization_accuracy.py -->\nold\n<!-- end -->\nafter\n")
    arguments = ["--networks", "demo", "--tools", "graphopt", "--data", str(dataset), "-o", str(out)]
    assert quantization_accuracy.main([*arguments, "--docs", str(guide)]) == 0
    rows = {row["kind"]: row for row in json.loads(out.read_text()) if "accuracy" in row}
    floats, integers = rows["float32"], rows["graphopt int8"]
    assert floats["accuracy"] > 91
    assert abs(integers["accuracy"] - floats["accuracy"]) < 1
    assert integers["bytes"] < 0.27 * floats["bytes"]
    assert integers["changed"] < 6
    assert integers["images"] == 300
    assert 3 * (floats["accuracy"] - integers["accuracy"]) == pytest.approx(
        integers["worse"] - integers["better"], abs=0.1
    )
    assert integers["decibels"] > 25
    assert "graphopt int8" in guide.read_text()
    assert "old" not in guide.read_text()
    assert "| Residual CNN of the demo |" in capsys.readouterr().out


def test_other_images_choose_the_setting_of_a_tool() -> None:
    def tried(settings: str, accuracy: float, changed: int) -> dict[str, Any]:
        return {**SETTINGS, "kind": "NNCF int8", "settings": settings} | {
            "choosing accuracy": accuracy,
            "choosing changed": changed,
        }

    rows = [tried("one", 91.0, 5), tried("two", 93.0, 20), tried("three", 93.0, 10), {"error": "none", "settings": ""}]
    assert best_of(rows) is rows[2]
    assert best_of(rows[3:]) is None


def test_what_was_lost_has_an_interval() -> None:
    other = {**SETTINGS, "kind": "NNCF int8", "settings": "one", "bytes": 300}
    rows = [row("float32", 92.0), other, row("NNCF int8", 91.5, 10, 320, "two")]
    interval = 100 * 1.96 * np.sqrt(8 + 3 + 1 - 5 * 5 / 1002) / 1002
    found = f"| | NNCF int8 | 91.50 % | 0.50 ± {interval:.2f} | 10 | 20.0 dB | 32.0% | two (of 2) |"
    assert table(rows).splitlines()[-1] == found


def test_new_rows_replace_those_of_the_same_setting() -> None:
    old = [row("float32", 92.0), row("NNCF int8", 91.0, settings="one")]
    new = [row("NNCF int8", 91.5, settings="one"), row("NNCF int8", 90.0, settings="two")]
    assert [r["accuracy"] for r in quantization_accuracy.merged(old, new)] == [92.0, 91.5, 90.0]


def test_a_guide_without_a_place_for_the_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="no place for the table"):
        replace_table("text", "table")


def test_an_error_of_a_quantizer_is_a_row(dataset: Path) -> None:
    broken = next(q for q in quantizers("/bin/false") if q.kind.startswith("NNCF"))
    network = quantization_accuracy.NETWORKS["demo"]
    judge = quantization_accuracy.Judge(dataset, (np.zeros((20, 10)), np.zeros((300, 10))))
    (found,) = quantization_accuracy.rows_of_kind(judge, network, [broken])
    assert found["error"] == "RuntimeError: NNCF: no message"
    assert "accuracy" not in found
