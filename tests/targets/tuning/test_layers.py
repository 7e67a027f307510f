"""Measuring layers in floats and integers with given times: what is recorded, read back, and not measured again."""

from __future__ import annotations

from pathlib import Path

import pytest
from tvm import tirx

from graphopt.compression.latency import LayerSizes, choose
from graphopt.driver.layer_models import maker
from graphopt.driver.tuning import Budget, Tuning
from graphopt.hardware.target import Target
from graphopt.targets.tvm.kernels.versions import VERSIONS
from graphopt.targets.tvm.latency import RecordedLatencies
from graphopt.targets.tvm.tuning import layers
from graphopt.targets.tvm.tuning.layers import LayerMeasuring, measure_layers
from graphopt.targets.tvm.tuning.records import Records
from graphopt.targets.tvm.tuning.spending import Spending
from tests.targets.tuning.support import FakeBench

CONV = LayerSizes((1, 32, 14, 14), (32, 32, 1, 1), (1, 1), (1, 1), (0, 0, 0, 0), 1)
MATMUL = LayerSizes((16, 32), (32, 64))
DEPTHWISE = LayerSizes((1, 16, 8, 8), (16, 1, 3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 16)
TARGET = Target.load("x86:cascadelake")


class Bench(FakeBench):
    """Integers take 2 microseconds, floats 3; of matmuls 1."""

    def __init__(self) -> None:
        super().__init__(lambda name: None)

    def time(self, function: tirx.PrimFunc, library: Path) -> float | None:
        types = [str(param.dtype) for param in function.params]
        self.timed[types[0]] += 1
        return 2e-6 if types[0] == "uint8" else 1e-6 if len(function.params[0].shape) == 2 else 3e-6


def measured(folder: Path, budget: Budget) -> tuple[int, Bench]:
    bench = Bench()
    measuring = LayerMeasuring(TARGET, Records(TARGET, folder), None, bench, Spending(budget))
    return measuring.run([CONV, MATMUL, DEPTHWISE], maker(TARGET), lambda what, done: None), bench


def test_what_is_measured_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, bench = measured(tmp_path, Budget(measurements=100))
    assert done == 3
    assert bench.timed == {"uint8": 3 * layers.ROUNDS, "float32": 3 * layers.ROUNDS}
    known = RecordedLatencies(TARGET, tmp_path)
    found = {sizes: choose(known, sizes) for sizes in (CONV, MATMUL, DEPTHWISE)}
    assert all(choice.measured for choice in found.values())
    assert {choice.integers for choice in found.values()} == {2e-6}
    assert [choice.integers_win for choice in found.values()] == [True, False, True]
    assert not choose(RecordedLatencies(TARGET, tmp_path, use_records=False), CONV).measured
    assert not choose(RecordedLatencies(Target.load("x86:znver4"), tmp_path), CONV).measured

    def refuse(*words: object) -> None:
        raise AssertionError("what is known is not measured again")

    monkeypatch.setattr(layers, "TvmBench", refuse)
    monkeypatch.setattr(Target, "runs_here", lambda self: True)
    tuning = Tuning(Budget(measurements=100), records=str(tmp_path))
    assert measure_layers([CONV, MATMUL, DEPTHWISE], maker(TARGET), TARGET, tuning, lambda what, done: None) == 0


def test_bytes_are_not_widened_while_a_layer_is_timed(tmp_path: Path) -> None:
    """In a network, the kernel before has stored them as the product reads them."""
    target, bench = Target.load("x86"), Bench()
    measuring = LayerMeasuring(target, Records(target, tmp_path), None, bench, Spending(Budget(measurements=2)))
    assert measuring.run([CONV], maker(target), lambda what, done: None) == 1
    assert bench.timed == {"int16": layers.ROUNDS, "float32": layers.ROUNDS}


def test_a_budget_limits_what_is_measured(tmp_path: Path) -> None:
    done, _ = measured(tmp_path, Budget(measurements=2))
    known = RecordedLatencies(TARGET, tmp_path)
    assert done == 1
    assert choose(known, CONV).measured
    estimate = choose(known, MATMUL)
    assert (estimate.measured, estimate.integers_win) == (False, True)


def test_times_of_other_kernels_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(tmp_path, Budget(measurements=2))
    lines = next(tmp_path.glob("*.jsonl")).read_text().splitlines()
    (family,) = {name for name in VERSIONS if any(f'"{name}"' in line for line in lines)}
    monkeypatch.setitem(VERSIONS, family, VERSIONS[family] + 1)
    assert not choose(RecordedLatencies(TARGET, tmp_path), CONV).measured


def test_estimates_without_dot_products_ask_the_families() -> None:
    """Floats are convolved by Winograd's algorithm; depthwise ones have no use for products of small integers."""
    large = LayerSizes((1, 64, 56, 56), (64, 64, 3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1)
    known = RecordedLatencies(Target.load("x86"), use_records=False)
    assert [choose(known, sizes).integers_win for sizes in (large, DEPTHWISE, CONV)] == [False, False, True]
    known = RecordedLatencies(TARGET, use_records=False)
    assert all(choose(known, sizes).integers_win for sizes in (large, DEPTHWISE, CONV))
