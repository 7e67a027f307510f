"""Reports sum up the results of steps and survive the conversion to JSON; tables are aligned."""

from __future__ import annotations

import json

import pytest

from graphopt.rewriting.passes import Fidelity
from graphopt.rewriting.report import Report, StepResult
from graphopt.util.tables import Table, format_bytes, format_count, format_seconds


def sample() -> Report:
    return Report(
        "clean,fixpoint(fuse)",
        [
            StepResult("clean", {}, Fidelity.EXACT, "0", 0.5, True, 10, 7, {"removed": 3}),
            StepResult(
                "fuse", {"limit": 3}, Fidelity.FLOAT, "1.0", 0.25, True, 7, 6, {"fused": 1}, {"shared": 2}, 1e-7
            ),
            StepResult("fuse", {"limit": 3}, Fidelity.FLOAT, "1.0", 0.25, False, 6, 6, {"fused": 0}, {"shared": 1}),
        ],
        1.0,
    )


def test_a_pipeline_is_as_good_as_its_worst_step() -> None:
    report = sample()
    assert report.fidelity is Fidelity.FLOAT
    assert Report().fidelity is Fidelity.EXACT
    assert report.error == 1e-7
    assert Report().error is None
    assert report.changed
    assert not Report().changed


def test_counts_add_up_and_misses_are_those_of_the_last_run() -> None:
    report = sample()
    assert report.counts == {"clean/removed": 3, "fuse/fused": 1}
    assert report.misses == {("fuse", "shared"): 1}


def test_json_round_trip() -> None:
    report = sample()
    again = Report.from_json(json.loads(json.dumps(report.to_json())))
    assert again == report


def test_as_text() -> None:
    text = str(sample())
    assert "fuse   float        2     -1  500 ms  1 fused" in text
    assert "fuse      1  shared" in text
    assert "removed" in text
    assert str(Report()) == ""


def test_table_alignment_and_wrong_rows() -> None:
    table = Table("sizes", ("name", "bytes"), right=frozenset({"bytes"}))
    table.add("a", 1234567)
    table.add("long name", 1)
    assert table.to_text().splitlines() == [
        "sizes",
        "name           bytes",
        "---------  ---------",
        "a          1,234,567",
        "long name          1",
    ]
    with pytest.raises(ValueError, match="1 cells"):
        table.add("only one")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_999, "1.00 MB"), (4_853_000, "4.85 MB"), (3e15, "3,000 TB")],
)
def test_bytes(number: int, text: str) -> None:
    assert format_bytes(int(number)) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (640, "640"), (3.86e9, "3.86 G"), (12_345, "12.3 k")])
def test_counts(number: float, text: str) -> None:
    assert format_count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.3e-4, "830 us"), (0.0124, "12.4 ms"), (3.02, "3.02 s"), (75.4, "75.4 s"), (0, "0.00 us")]
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
