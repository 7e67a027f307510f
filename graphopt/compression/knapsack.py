"""The knapsack of mixed precision: which layers to quantize for the largest saving within a limit of the error."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_STEPS = 2000
"""The steps into which the limit is divided; errors are rounded up, so that the limit is never exceeded."""


def choose(errors: Sequence[float], savings: Sequence[float], limit: float) -> list[int]:
    """Return the places of the items with the largest sum of savings whose errors add up to at most `limit`.

    Solved by dynamic programming over the sum of errors; a solution is the best one for errors rounded up to steps of a
    2,000th of the limit. Items without error are always chosen, items that save nothing never.
    """
    free = [i for i, error in enumerate(errors) if error <= 0 < savings[i]]
    if limit <= 0:
        return free
    weights = [math.ceil(error / limit * _STEPS) if math.isfinite(error) else _STEPS + 1 for error in errors]
    items = [i for i, weight in enumerate(weights) if 0 < weight <= _STEPS and savings[i] > 0]
    best = np.zeros(_STEPS + 1)
    taken = np.zeros((len(items), _STEPS + 1), bool)
    for row, item in enumerate(items):
        weight = weights[item]
        with_it = np.full(_STEPS + 1, -1.0)
        with_it[weight:] = best[: _STEPS + 1 - weight] + savings[item]
        taken[row] = with_it > best
        best = np.maximum(best, with_it)
    left, chosen = _STEPS, list(free)
    for row in reversed(range(len(items))):
        if taken[row, left]:
            chosen.append(items[row])
            left -= weights[items[row]]
    return sorted(chosen)
