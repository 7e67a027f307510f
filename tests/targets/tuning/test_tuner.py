"""The tuner with given times: which plan wins, the order of measurements, the effects of failures and budgets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from graphopt.driver.tuning import Budget, Tuned
from graphopt.errors import CompileError
from graphopt.targets.tvm.kernels.families import families_for
from graphopt.targets.tvm.kernels.family import Workload, every_plan
from graphopt.targets.tvm.kernels.plans import Plans, default
from graphopt.targets.tvm.tuning import spending, tuner
from graphopt.targets.tvm.tuning.spending import Spending, spend
from graphopt.targets.tvm.tuning.tuner import Candidate, Tuner
from tests.targets.tuning.support import MACHINE, FakeBench, conv, plans_of, records

ALL = Budget(measurements=10_000)
POINTWISE = conv(32, 32, 12, kernel=1)
"""One family, and several plans."""
BOTH = conv(32, 32, 12)
"""A workload of two families."""


def tune(folder: Path, bench: FakeBench, *workloads: Workload, budget: Budget = ALL, **more: Any) -> dict[str, Tuned]:
    """The results by workload."""
    kept = records(folder)
    account = Spending(budget, **more)
    found = spend(account, [Tuner(plans_of(*workloads, kept=kept), kept, bench, account, lambda what, done: None)])
    return {one.workload: one for one in found}


def chosen(folder: Path, workload: Workload) -> str:
    found = Plans(MACHINE, records(folder)).choose(workload)
    assert found is not None
    return str(Candidate(*found))


def names(workload: Workload) -> list[str]:
    return [
        str(Candidate(f, plan)) for f in families_for(workload, MACHINE) for plan in every_plan(f, workload, MACHINE)
    ]


def test_the_fastest_wins_and_is_used_from_then_on(tmp_path: Path) -> None:
    wanted = "direct convolution 6x2x8"
    bench = FakeBench(lambda name: 1e-4 if name.startswith(wanted) else 2e-4)
    found = tune(tmp_path, bench, POINTWISE)[POINTWISE.key]
    assert bench.timed[wanted]
    assert found.best.startswith("conv_direct 6,2,")
    assert found.best == chosen(tmp_path, POINTWISE) != found.default
    assert (found.default_seconds, found.best_seconds) == (2e-4, pytest.approx(1e-4))
    assert found.measured == len(names(POINTWISE))


@pytest.mark.parametrize("fast", ["Winograd", "direct"])
def test_families_compete(tmp_path: Path, fast: str) -> None:
    bench = FakeBench(lambda name: 1e-4 if name.startswith(fast) else 1.4e-4)
    found = tune(tmp_path, bench, BOTH)[BOTH.key]
    assert fast.lower() in found.best
    assert fast.lower() in chosen(tmp_path, BOTH)


def test_a_family_far_behind_is_measured_no_further(tmp_path: Path) -> None:
    bench = FakeBench(lambda name: 1e-4 if name.startswith("Winograd") else 9e-4)
    found = tune(tmp_path, bench, BOTH)[BOTH.key]
    direct = sum(name.startswith("direct") for name in bench.timed)
    assert 0 < direct <= tuner.TOGETHER
    assert found.measured < len(names(BOTH))
    assert tune(tmp_path, bench, BOTH)[BOTH.key].known


def test_the_default_stays_where_nothing_is_clearly_faster(tmp_path: Path) -> None:
    first = str(Candidate(*default(POINTWISE, MACHINE)))
    bench = FakeBench(lambda name: 1e-4 if name == "direct convolution 3x4x8" else 0.99e-4)
    assert tune(tmp_path, bench, POINTWISE)[POINTWISE.key].best == first == chosen(tmp_path, POINTWISE)


def test_the_best_of_several_rounds_counts(tmp_path: Path) -> None:
    """A disturbance lengthens one round's time of the fastest."""
    calls = {"n": 0}

    def seconds(name: str) -> float:
        calls["n"] += 1
        return 1.9e-4 if calls["n"] % 3 else (1e-4 if name.startswith("direct convolution 4x3x8") else 1.5e-4)

    assert tune(tmp_path, FakeBench(seconds), POINTWISE)[POINTWISE.key].best.startswith("conv_direct 4,3")


def test_one_twice_as_slow_is_timed_once(tmp_path: Path) -> None:
    bench = FakeBench(lambda name: 9e-4 if name.startswith("direct convolution 6x2x8") else 1e-4)
    tune(tmp_path, bench, POINTWISE)
    assert bench.timed["direct convolution 6x2x8"] == 1
    assert bench.timed["direct convolution 4x3x8"] >= spending.ROUNDS


def test_a_candidate_that_fails_costs_only_itself(tmp_path: Path) -> None:
    bench = FakeBench(lambda name: None if name.startswith("direct convolution 6x2x8") else 1e-4)
    found = tune(tmp_path, bench, POINTWISE)[POINTWISE.key]
    assert 1 <= found.failed < found.measured == len(names(POINTWISE))
    assert not found.best.startswith("conv_direct 6,2")
    before = bench.timed.copy()
    assert tune(tmp_path, bench, POINTWISE)[POINTWISE.key].known, "what failed is not tried again"
    assert bench.timed == before


def test_a_device_that_goes_away_leaves_what_was_measured(tmp_path: Path) -> None:
    """The candidate that crashed it is not sent again, the one that found it gone is."""
    culprit = "direct convolution 4x3x8"
    bench = FakeBench(lambda name: None if name == culprit else 1e-4)
    answers = bench.seconds

    def seconds(name: str) -> float | None:
        if bench.timed[culprit] and name != culprit:
            raise CompileError("the device does not respond any more")
        return answers(name)

    bench.seconds = seconds
    with pytest.raises(CompileError, match="does not respond"):
        tune(tmp_path, bench, POINTWISE)
    kept = records(tmp_path).find(POINTWISE.key)
    assert kept is not None
    assert kept.winner.seconds == 1e-4
    assert [trial.plan[:2] for trial in kept.trials if trial.seconds is None] == [(4, 3)]
    bench.seconds, bench.timed = answers, Counter()
    assert tune(tmp_path, bench, POINTWISE)[POINTWISE.key].measured
    assert culprit not in bench.timed


def test_a_default_that_fails_loses(tmp_path: Path) -> None:
    bench = FakeBench(lambda name: None if name == "direct convolution 3x4x8" else 1e-4)
    found = tune(tmp_path, bench, POINTWISE)[POINTWISE.key]
    assert found.default_seconds is None
    assert chosen(tmp_path, POINTWISE) == found.best != found.default


def test_nothing_is_recorded_where_everything_fails(tmp_path: Path) -> None:
    found = tune(tmp_path, FakeBench(lambda name: None), POINTWISE)[POINTWISE.key]
    assert found.failed == found.measured == len(names(POINTWISE))
    assert len(records(tmp_path)) == 0
    assert chosen(tmp_path, POINTWISE) == found.default


def test_a_budget_of_measurements_goes_where_the_time_goes(tmp_path: Path) -> None:
    small, large = conv(16, 16, 4, kernel=1), conv(64, 64, 28, kernel=1)
    bench = FakeBench(lambda name: 1e-4)
    found = tune(tmp_path, bench, small, *[large] * 9, budget=Budget(measurements=7))
    assert found[large.key].calls == 9
    assert (found[small.key].measured, found[large.key].measured) == (1, 6)
    assert list(found) == [large.key, small.key]


def test_a_small_budget_is_not_overdrawn(tmp_path: Path) -> None:
    found = tune(tmp_path, FakeBench(lambda name: 1e-4), BOTH, POINTWISE, budget=Budget(measurements=1))
    assert sum(one.measured for one in found.values()) == 1


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    def bench() -> FakeBench:
        return FakeBench(lambda name: 1e-4 if name.startswith("direct convolution 6x2x8") else 1.2e-4)

    total = 0
    for _ in range(20):
        found = tune(tmp_path, bench(), POINTWISE, budget=Budget(measurements=4))[POINTWISE.key]
        total += found.measured
        if found.known:
            break
    assert found.known
    assert total == len(names(POINTWISE)), "every candidate was measured once in all"
    assert chosen(tmp_path, POINTWISE).startswith("conv_direct 6,2")


def test_a_budget_of_time_ends_in_time(tmp_path: Path) -> None:
    now = {"seconds": 0.0}

    def seconds(name: str) -> float:
        now["seconds"] += 1.0
        return 1e-4

    bench = FakeBench(seconds)
    found = tune(tmp_path, bench, BOTH, POINTWISE, budget=Budget(seconds=20), clock=lambda: now["seconds"])
    assert 4 <= now["seconds"] <= 40
    assert sum(one.measured for one in found.values()) < len(names(BOTH)) + len(names(POINTWISE))


def test_the_same_records_give_the_same_plans(tmp_path: Path) -> None:
    tune(tmp_path, FakeBench(lambda name: 1e-4 * (1 + len(name) % 7)), BOTH, POINTWISE)
    first, second = (Plans(MACHINE, records(tmp_path)) for _ in range(2))
    for workload in (BOTH, POINTWISE):
        assert first.choose(workload) == second.choose(workload)
    assert first.tuned == {BOTH.key, POINTWISE.key}
