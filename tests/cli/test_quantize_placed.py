"""`graphopt quantize --target`: layers that records say are not faster as integers stay floats."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt import io
from graphopt.compression.latency import FLOATS, INTEGERS, LayerSizes
from graphopt.driver import worker
from graphopt.hardware.target import Target
from graphopt.ir import infer_shapes
from graphopt.rewriting.shapes import fix_shapes
from graphopt.targets.tvm.latency import OTHER, key_of
from graphopt.targets.tvm.tuning.records import Record, Records, Trial
from tests.cli.conftest import Run
from tests.cli.quantizing import quantized

TARGET = "x86:cascadelake"
TIMES = {"first": (1e-3, 2e-3), "second": (3e-3, 1e-3), "last": (1e-4, 5e-5)}
"""Seconds in floats and in integers."""


def write_records(model: Path) -> None:
    """Write what a measurement would have found."""
    kept, read = Records(Target.load(TARGET), Path("records")), io.load(model)
    fix_shapes(read, {"x": (1, 3, 8, 8)})
    infer_shapes(read)
    for node in read.graph.nodes:
        sizes = LayerSizes.of(node)
        for precision, seconds in zip((FLOATS, INTEGERS), TIMES.get(node.name, ()), strict=False):
            assert sizes is not None
            trial = Trial(OTHER, 1, (), seconds)
            kept.add(Record(kept.target, kept.toolchain, key_of(sizes, precision), (trial,), 0, 1, True, 1.0))


@pytest.fixture(autouse=True)
def _nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object) -> None:
        raise AssertionError("what has records is not measured again")

    monkeypatch.setattr(worker, "measure", refuse)


def test_records_place_layers(run: Run, net: Path) -> None:
    write_records(net)
    words = ("--input", "x:1x3x8x8", "--target", TARGET, "--tune", "100", "--records", "records", "--json")
    found = quantized(run, net, *words).json
    rows = {row["layer"]: row for row in found["placement"]["layers"]}
    assert {name: (row["floats"], row["integers"]) for name, row in rows.items()} == TIMES
    assert all(row["measured"] for row in rows.values())
    assert {name: row["int8"] for name, row in rows.items()} == {"first": False, "second": True, "last": True}
    (left,) = found["left"]
    assert left["layer"] == "first"
    assert left["reason"] == "floats are faster: 1.00 ms, 2.00 ms as integers (measured)"
    assert found["predicted"]["unit"] == "seconds"
    assert found["predicted"]["before"] == pytest.approx(4.1e-3)
    assert found["predicted"]["after"] == pytest.approx(2.05e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tune", "60s"), "layers are measured for a target, but there is none"),
        (("--records", "records"), "layers are measured for a target, but there is none"),
        (("--cost", "latency"), "latency depends on a target, but there is none"),
        (("--target", TARGET, "--scheme", "int8-dynamic"), "only quantize-static places layers"),
        (("--target", TARGET, "--rpc", "a:1"), "nothing is measured"),
    ],
)
def test_requests_that_place_nothing(words: tuple[str, ...], message: str, run: Run, net: Path) -> None:
    result = quantized(run, net, *words)
    assert result.status == 2
    assert message in result.err


def test_where_no_layer_gains_the_model_is_left_as_it_is(run: Run, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.cli.test_quantize_placed.TIMES", dict.fromkeys(TIMES, (1.1e-3, 1e-3)))
    write_records(net)
    result = quantized(run, net, "--input", "x:1x3x8x8", "--target", TARGET, "--records", "records")
    assert result.status == 2
    assert f"nothing was quantized: no layer is 1.2 times as fast as integers on {TARGET}" in result.err
