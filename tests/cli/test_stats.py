"""`graphopt stats`: the table, the files and the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt import io
from graphopt.compression.statistics import ActivationStatistics
from tests.cli.conftest import Run
from tests.helpers import model_of

RNG = np.random.default_rng(0)
TEXT = "g (float[N,3,8,8] X) => (float[N,5,8,8] r) { c = Conv<pads=[1,1,1,1]>(X, w) r = Relu(c) }"


@pytest.fixture(autouse=True)
def _files(run: Run) -> None:
    io.save(model_of(TEXT, {"w": RNG.normal(size=(5, 3, 3, 3)).astype(np.float32)}), "m.onnx")
    np.savez("s.npz", X=RNG.normal(size=(4, 2, 3, 8, 8)).astype(np.float32))


def test_the_command_shows_saves_and_draws(run: Run) -> None:
    result = run("stats", "m.onnx", "--samples", "s.npz", "-o", "s.json", "--picture", "s.svg")
    assert result.status == 0, result.err
    assert "99.9 % within" in result.out
    assert "4 samples in 1 run over them" in result.out
    assert Path("s.svg").read_text().startswith("<svg")
    facts = run("stats", "m.onnx", "--samples", "s.npz", "--json").json
    assert facts == ActivationStatistics.load(Path("s.json")).to_json()
    shown = run("stats", "m.onnx", "--samples", "s.npz", "--value", "r", "--kind", "channels", "--memory", "1kB").out
    assert [line.split() for line in shown.splitlines() if line.startswith("r ")] == [["r", "5", "0"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "much"], "cannot read 'much' as an amount of memory"),
        (["--picture", "p.svg", "--kind", "range"], "--picture draws histograms"),
        (["-o", "s.txt"], "statistics cannot be saved in 's.txt'"),
        (["--kind", "mean"], "no statistics of kind 'mean'"),
    ],
)
def test_wrong_requests(words: list[str], message: str, run: Run) -> None:
    assert message in run("stats", "m.onnx", "--samples", "s.npz", *words).error()
