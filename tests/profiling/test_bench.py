"""The interleaved timing core."""

from __future__ import annotations

import gc
import itertools
import threading
import time

import pytest

from graphopt.profiling.bench import Timing, interleave


def test_statistics_of_known_durations() -> None:
    timing = Timing.of([0.4, 0.1, 0.3, 0.2, 0.5])
    assert timing == Timing(runs=5, best=0.1, p50=0.3, p90=pytest.approx(0.46), mean=pytest.approx(0.3))
    assert timing.to_json()["p50"] == 0.3


def test_statistics_of_one_duration() -> None:
    assert Timing.of([0.2]) == Timing(1, 0.2, 0.2, 0.2, 0.2)


def test_nothing_timed_is_an_error() -> None:
    with pytest.raises(ValueError, match="no run was timed"):
        Timing.of([])


def test_each_runner_is_called_in_turn_and_rounds_start_with_another() -> None:
    calls: list[str] = []
    timings = interleave({name: lambda name=name: calls.append(name) for name in "ab"}, runs=2, warmup=1)
    # One warm-up round, then two calls of each a round, of which the second is timed.
    assert "".join(calls) == "ab" + "aabb" + "bbaa"
    assert {name: timing.runs for name, timing in timings.items()} == {"a": 2, "b": 2}


def test_only_the_second_call_of_a_pair_is_timed() -> None:
    ticks = itertools.count()

    def clock() -> float:
        return float(next(ticks))

    # Each look at the clock advances it by one: a runner that looks once takes two.
    timings = interleave({"looks": clock, "idle": lambda: None}, runs=4, warmup=0, clock=clock)
    assert timings["looks"].p50 == 2
    assert timings["idle"].p50 == 1


def test_threads_that_still_spin_come_to_rest_before_the_next_runner() -> None:
    spinning: list[threading.Thread] = []
    found: list[bool] = []

    def leaves_a_thread() -> None:
        end = time.perf_counter() + 0.1
        spinning.append(threading.Thread(target=lambda: [None for _ in iter(lambda: time.perf_counter() < end, False)]))
        spinning[-1].start()

    def looks() -> None:
        found.append(any(thread.is_alive() for thread in spinning))

    interleave({"spins": leaves_a_thread, "looks": looks}, runs=1, warmup=0)
    assert len(spinning) == 2
    assert found == [False, False]


def test_no_round_starts_after_the_time_is_over_but_three_are_run() -> None:
    assert interleave({"a": lambda: None}, runs=100, seconds=0)["a"].runs == 3
    assert interleave({"a": lambda: None}, runs=2, seconds=0)["a"].runs == 2


def test_no_runners_give_no_timings() -> None:
    assert interleave({}) == {}


@pytest.mark.parametrize(("runs", "warmup"), [(0, 1), (1, -1)])
def test_counts_that_mean_nothing_are_refused(runs: int, warmup: int) -> None:
    with pytest.raises(ValueError, match="runs must be at least 1"):
        interleave({"a": lambda: None}, runs, warmup)


def test_an_error_in_a_runner_comes_through_and_garbage_collection_goes_on() -> None:
    def broken() -> None:
        raise RuntimeError("broken runner")

    with pytest.raises(RuntimeError, match="broken runner"):
        interleave({"a": broken}, warmup=0)
    assert gc.isenabled()
