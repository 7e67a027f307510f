"""The measurement of matmuls by few bits: its models are right, and its table says what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt import runtime
from graphopt.proof.oracle import Reference
from tools.few_bits_speed import FEW, LARGE, Case, Row, prepare, table


@pytest.mark.parametrize("zeros", [False, True])
def test_a_model_runs_the_same_in_both(zeros: bool, tmp_path: Path) -> None:
    case = Case(FEW, 64, 32, level=4, zeros=zeros)
    assert case.copies == 1
    prepare(case, tmp_path, "host")
    model = onnx.load(tmp_path / "model.onnx")
    assert case.bytes == sum(len(t.raw_data) for t in model.graph.initializer)
    with np.load(tmp_path / "feed.npz") as file:
        feed = dict(file)
    found = runtime.load(tmp_path / "model.gopt", threads=1).run(feed)["y0"]
    with Reference(model) as reference:
        wanted = np.asarray(reference.run(feed)["y0"])
    assert np.abs(found - wanted).max() < 2e-2 * np.abs(wanted).max()


def test_matrices_of_few_rows_exceed_the_caches() -> None:
    case = Case(1, 4096, 4096, level=0)
    assert case.bytes == 4096 * 4096 // 2 + 4096 * 128 * 4
    assert case.copies * case.bytes >= LARGE > (case.copies - 1) * case.bytes


def test_the_table() -> None:
    case = Case(1, 4096, 4096, level=4)
    row = Row(case, 2, {"graphopt": 1e-3, "onnxruntime": 1.5e-3}, bandwidth=case.bytes * 2e3, error=0)
    line = table([row]).splitlines()[-1]
    assert line == "| 1 | 4096x4096 | 4 | 2 | 1.000 ms | 1.500 ms | 1.50 | 10.5 GB/s | 50% of 21.0 GB/s |"
