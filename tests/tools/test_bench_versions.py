"""The comparison of two versions: here of this one with itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import bench_versions


def test_a_version_beside_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.json"
    arguments = ["--baseline", sys.executable, "fashion", "--runs", "3", "--seconds", "0", "-o", str(out)]
    assert bench_versions.main(arguments) == 0
    (row,) = json.loads(out.read_text())
    before, after = row["versions"]["baseline"], row["versions"]["graphopt"]
    assert before["bytes"] == after["bytes"] > 0
    assert before["error"] == after["error"]
    assert bench_versions.ratio(row) == before["seconds"] / after["seconds"]
    assert "geometric mean" in capsys.readouterr().out


def test_a_version_that_does_not_compile_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_versions.main(["--baseline", "/bin/false", "fashion"]) == 1
    assert "could not compile it" in capsys.readouterr().err


def test_the_ratio_is_above_one_where_this_version_is_faster() -> None:
    row: dict[str, Any] = {"versions": {"baseline": {"seconds": 3.0}, "graphopt": {"seconds": 2.0}}}
    assert bench_versions.ratio(row) == 1.5
