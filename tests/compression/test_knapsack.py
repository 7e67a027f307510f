"""The knapsack of mixed precision, against trying everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from graphopt.compression.knapsack import choose


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_saves_more_and_none_exceeds_the_limit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors, savings = rng.random(8) * 10.0 ** rng.integers(-3, 1, 8), rng.random(8)
    limit = float(errors.sum() * rng.random())
    chosen = choose(list(errors), list(savings), limit)
    assert sum(errors[i] for i in chosen) <= limit
    sets = itertools.chain.from_iterable(itertools.combinations(range(8), n) for n in range(9))
    best = max(savings[list(s)].sum() for s in sets if errors[list(s)].sum() <= limit * (1 - 8 / 2000))
    assert savings[chosen].sum() >= best - 1e-9


def test_items_at_the_ends() -> None:
    assert choose([0.0, 1.0, np.inf, 0.0], [1.0, 1.0, 5.0, 0.0], 0.5) == [0]
    assert choose([0.0, 1.0], [1.0, 1.0], 0.0) == [0]
    assert choose([0.2, 0.3], [1.0, 1.0], 0.5) == [0, 1]
    assert choose([], [], 1.0) == []
