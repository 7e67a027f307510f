"""Summaries of the benchmark's rows: how many times faster graphopt is than the better of its peers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools.peers import OURS, PEERS


@dataclass(frozen=True)
class Summary:
    """The geometric mean of some rows' ratios, the least one and its row, and how many are below 1."""

    count: int
    mean: float
    least: float
    worst: dict[str, Any]
    losses: int


def ratio(row: dict[str, Any]) -> float | None:
    """Return the median latency of the better peer divided by graphopt's; None if graphopt or every peer is missing."""
    timings = row["timings"]
    others = [timings[name]["p50"] for name in PEERS if name in timings]
    return float(min(others) / timings[OURS]["p50"]) if OURS in timings and others else None


def summary(rows: Sequence[dict[str, Any]]) -> Summary | None:
    """Summarize the rows that have a ratio; None if there are none."""
    pairs = [(value, row) for row in rows if (value := ratio(row)) is not None]
    if not pairs:
        return None
    values = [value for value, _ in pairs]
    least, worst = min(pairs, key=lambda pair: pair[0])
    mean = math.exp(math.fsum(map(math.log, values)) / len(values))
    return Summary(len(values), mean, least, worst, sum(value < 1 for value in values))
