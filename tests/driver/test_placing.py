"""`compile --tune` and `tune` measure the layers of a quantized model in both precisions, and place them by that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.compression.latency import FLOATS, INTEGERS, LayerSizes
from graphopt.driver import compiling, worker
from graphopt.driver.tuning import Budget, Tuning
from graphopt.hardware.target import Target
from graphopt.ir import Model
from graphopt.targets.tvm.latency import OTHER, key_of
from graphopt.targets.tvm.tuning.records import Record, Records, Trial
from tests.helpers import model_of

TARGET = "x86:v4"
NETWORK = """<ir_version: 10, opset_import: ["" : 21]> g (float[1,8,9,9] X) => (float[1,16,7,7] Y) {
    q = QuantizeLinear(X, s, z)  d = DequantizeLinear(q, s, z)
    w = DequantizeLinear<axis=0>(w8, t)  Y = Conv(d, w) }"""
SIZES = LayerSizes((1, 8, 9, 9), (16, 8, 3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1, True)


def network() -> Model:
    weights = {
        "s": np.array(0.02, np.float32),
        "z": np.array(128, np.uint8),
        "w8": np.random.default_rng(0).integers(-127, 128, (16, 8, 3, 3)).astype(np.int8),
        "t": np.full(16, 0.01, np.float32),
    }
    return model_of(NETWORK, weights)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[float, float], list[Any]]:
    """Let measurements find the given times in floats and integers; returns the list of requests."""

    def prepare(floats: float, integers: float) -> list[Any]:
        requests: list[Any] = []

        def measure(layers: Sequence[LayerSizes], target: Target, progress: Any, tuning: Tuning, _: Any = None) -> int:
            requests.append((list(layers), tuning.budget))
            kept = Records(target, tmp_path)
            for precision, seconds in ((FLOATS, floats), (INTEGERS, integers)):
                for sizes in layers:
                    trial = Trial(OTHER, 1, (), seconds)
                    key = key_of(sizes, precision)
                    kept.add(Record(kept.target, kept.toolchain, key, (trial,), 0, 1, True, 1.0))
            return len(layers)

        monkeypatch.setattr(worker, "measure", measure)
        monkeypatch.setattr(worker, "tune", lambda *words, **options: [])
        return requests

    return prepare


@pytest.mark.parametrize(("floats", "integers", "kernel"), [(1e-3, 2e-3, False), (2e-3, 1e-3, True)])
def test_compile_measures_layers_first(
    floats: float, integers: float, kernel: bool, measured: Callable[..., list[Any]], tmp_path: Path
) -> None:
    requests = measured(floats, integers)
    tuning = Tuning(Budget(seconds=40), records=str(tmp_path))
    found: list[str] = []
    for _ in range(2):  # the second one finds the records
        artifact = graphopt.compile(network(), target=TARGET, tune=tuning)
        found.append((artifact.folder / "report.json").read_text())
    assert requests == [([SIZES], Budget(seconds=10))]
    assert [("floats are faster, as measured" in report) for report in found] == [not kernel] * 2


def test_tune_measures_layers_too(measured: Callable[..., list[Any]], tmp_path: Path) -> None:
    requests = measured(1e-3, 2e-3)
    tuning = Tuning(Budget(measurements=20), records=str(tmp_path))
    compiling.tune(network(), TARGET, tuning=tuning)
    assert requests == [([SIZES], Budget(measurements=5))]


def test_float_models_have_nothing_to_place(measured: Callable[..., list[Any]], tmp_path: Path) -> None:
    requests = measured(1e-3, 2e-3)
    weights = {"w": np.ones((16, 8, 3, 3), np.float32)}
    model = model_of("g (float[1,8,9,9] X) => (float[1,16,7,7] Y) { Y = Conv(X, w) }", weights)
    compiling.tune(model, TARGET, tuning=Tuning(Budget(seconds=9), records=str(tmp_path)))
    assert requests == []
