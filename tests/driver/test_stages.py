"""The times of stages, from what is told of progress."""

from __future__ import annotations

import time

import pytest

from graphopt.driver.stages import Stages


def test_a_stage_lasts_until_the_next_and_its_details_belong_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 3.0, 7.0, 15.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    told: list[tuple[str, float]] = []
    stages = Stages(lambda *step: told.append(step))
    steps = [("reading", 0.0), ("making", 0.1), ("making: a (b)", 0.2), ("reading", 0.3), ("done", 1.0)]
    for step in steps:
        stages(*step)
    assert told == steps
    assert stages.seconds == {"reading": 1.0 + 8.0, "making": 2.0 + 4.0}
