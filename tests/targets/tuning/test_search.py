"""The search for schedules: MetaSchedule's own candidates, with given times."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import te, tirx, topi

from graphopt.driver.tuning import Budget, Tuned
from graphopt.errors import CompileError
from graphopt.targets.tvm.codegen.build import tvm_target
from graphopt.targets.tvm.cpu.pipeline import Cpu
from graphopt.targets.tvm.cpu.schedule import schedule, schedule_function
from graphopt.targets.tvm.device import fuse
from graphopt.targets.tvm.lowering.lower import lower
from graphopt.targets.tvm.tuning import search as searching
from graphopt.targets.tvm.tuning.evolution import Evolution, trace_of
from graphopt.targets.tvm.tuning.search import Function, Search, functions_of
from graphopt.targets.tvm.tuning.searched import Searched, bare, finished, key, replay
from graphopt.targets.tvm.tuning.spending import Spending, spend
from tests.helpers import model_of
from tests.targets.schedule.support import execute
from tests.targets.tuning.support import MACHINE, TARGET

Seconds = Callable[[tirx.PrimFunc], float | None]


def softmax(rows: int = 8) -> tirx.PrimFunc:
    x = te.placeholder((rows, 40), "float32", "x")
    return bare(te.create_prim_func([x, topi.nn.softmax(x)], "int64"))


def function(func: tirx.PrimFunc, name: str = "softmax", calls: int = 1) -> Function:
    return Function(name, func, schedule_function(func, MACHINE), calls)


class Bench:
    """Builds nothing; times by a function of the test."""

    def __init__(self, seconds: Seconds, problem: str = "") -> None:
        self.seconds, self.problem = seconds, problem
        self.compared = 0
        self.built: set[int] = set()

    def build(self, functions: Sequence[tirx.PrimFunc]) -> list[Path | None]:
        self.built |= {tvm_ffi.structural_hash(function) for function in functions}
        return [Path("library.so") for _ in functions]

    def time(self, function: tirx.PrimFunc, library: Path) -> float | None:
        return self.seconds(function)

    def compare(self, function: tirx.PrimFunc, reference: Path, library: Path) -> str:
        self.compared += 1
        return self.problem


def search(folder: Path, bench: Any, *functions: Function, budget: int = 18) -> dict[str, Tuned]:
    """The results by the names of the functions."""
    spending = Spending(Budget(measurements=budget))
    made = Search(functions, tvm_target(TARGET), kept(folder), bench, spending, lambda what, done: None)
    return {one.workload.split()[0]: one for one in spend(spending, [made])}


def kept(folder: Path) -> Searched:
    return Searched(TARGET, folder, folder / "none")


def general_is(seconds: float, others: float) -> Seconds:
    """A time for the general schedule of `softmax`, and one for everything else."""
    general = schedule_function(softmax(), MACHINE)
    return lambda func: seconds if tvm_ffi.structural_equal(func, general) else others


def test_candidates_are_made_again_from_their_steps_and_compute_the_same() -> None:
    func = softmax()
    evolution = Evolution(func, tvm_target(TARGET), [], 1)
    data = np.random.default_rng(0).standard_normal((8, 40)).astype(np.float32)
    expected = np.exp(data) / np.exp(data).sum(1, keepdims=True)
    seen = set()
    for _ in range(2):
        found = evolution.candidates()
        for sch in found[:4]:
            again = replay(func, trace_of(sch))
            assert tvm_ffi.structural_equal(again, sch.mod["main"])
            (result,) = execute(finished(again), [data], [np.empty_like(data)])
            np.testing.assert_allclose(result, expected, rtol=1e-5)
        assert found
        seen |= {tvm_ffi.structural_hash(sch.mod) for sch in found}
        evolution.tell([1e-4, None] * (len(found) // 2) + [1e-4] * (len(found) % 2))
    assert len(seen) > 8, "the second round brings others"


def test_the_same_seed_gives_the_same_candidates() -> None:
    made = [
        [trace_of(sch) for sch in Evolution(softmax(), tvm_target(TARGET), [], seed).candidates()] for seed in (1, 1, 2)
    ]
    assert made[0] == made[1] != made[2]


def test_a_search_begins_with_what_is_known() -> None:
    func, target = softmax(), tvm_target(TARGET)
    trace = trace_of(Evolution(func, target, [], 1).candidates()[0])
    again = Evolution(func, target, [(trace, 1e-4)], 2)
    known = again._database.get_top_k(again._workload, 1)[0]
    assert trace_of(known.as_measure_candidate().sch) == trace


def test_a_schedule_that_is_faster_is_kept_and_used(tmp_path: Path) -> None:
    bench = Bench(general_is(2e-4, 1e-4))
    found = search(tmp_path, bench, function(softmax(), calls=3))["softmax"]
    assert (found.default, found.best, found.calls) == ("rows", "search", 3)
    assert (found.default_seconds, found.best_seconds) == (2e-4, 1e-4)
    assert (found.measured, found.failed, found.known) == (18, 0, False)
    assert bench.compared == 1, "what is no faster than the best so far is not compared"

    mod = tvm.IRModule({"one": softmax(), "other": softmax(9)})
    first, second = (schedule(mod, MACHINE, kept(tmp_path)) for _ in range(2))
    assert tvm_ffi.structural_equal(first, second), "the same records give the same schedules"
    assert not tvm_ffi.structural_equal(first["one"].body, schedule(mod, MACHINE)["one"].body)
    assert tvm_ffi.structural_equal(first["other"], schedule(mod, MACHINE)["other"])
    assert first["one"].attrs["graphopt.schedule"] == "search"


@pytest.mark.parametrize("others", [2e-4, 1.97e-4, 1.0], ids=["no better", "hardly better", "worse"])
def test_the_general_schedule_stays_where_nothing_is_clearly_faster(tmp_path: Path, others: float) -> None:
    found = search(tmp_path, Bench(general_is(2e-4, others)), function(softmax()), budget=9)["softmax"]
    assert (found.best, found.best_seconds) == ("rows", 2e-4)
    record = kept(tmp_path).find(key(softmax()))
    assert record is not None
    assert (record.measured, record.trace, record.seconds) == (9, None, None)
    assert kept(tmp_path).schedule(softmax()) is None


def test_a_schedule_that_computes_something_else_is_declined(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(general_is(2e-4, 1e-4), "argument 1: off by 3")
    with caplog.at_level(logging.INFO):
        found = search(tmp_path, bench, function(softmax()))["softmax"]
    assert (found.best, found.failed) == ("rows", bench.compared)
    assert bench.compared
    assert "off by 3" in caplog.text
    assert kept(tmp_path).schedule(softmax()) is None


def test_what_fails_costs_only_itself(tmp_path: Path) -> None:
    found = search(tmp_path, Bench(lambda func: None), function(softmax()))["softmax"]
    assert (found.measured, found.failed, found.default_seconds) == (1, 1, None), "without a general time: no search"
    calls = iter([2e-4, *[None, 1e-4] * 100])
    found = search(tmp_path, Bench(lambda func: next(calls)), function(softmax()), budget=9)["softmax"]
    assert (found.measured, found.failed) == (9, 4)


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "ENOUGH", 20)
    bench = Bench(general_is(2e-4, 1e-4))
    first = search(tmp_path, bench, function(softmax()), budget=9)["softmax"]
    second = search(tmp_path, bench, function(softmax()), budget=1000)["softmax"]
    assert (first.measured, second.default_seconds, second.best) == (9, 2e-4, "search")
    assert 11 <= second.measured <= 18
    third = search(tmp_path, bench, function(softmax()))["softmax"]
    assert (third.measured, third.known, third.best_seconds) == (0, True, 1e-4)


def test_the_next_run_tries_other_candidates(tmp_path: Path) -> None:
    first, second = Bench(general_is(2e-4, 1.0)), Bench(general_is(2e-4, 1.0))
    search(tmp_path, first, function(softmax()), budget=9)
    search(tmp_path, second, function(softmax()), budget=8)
    assert len(second.built - first.built) >= 4


def test_the_budget_goes_where_the_time_goes(tmp_path: Path) -> None:
    large, small = function(softmax(), "large", 9), function(softmax(9), "small")
    found = search(tmp_path, Bench(lambda func: 1e-4), small, large, budget=18)
    assert (found["large"].measured, found["small"].measured) == (17, 1)
    assert list(found) == ["large", "small"]


def test_a_function_that_the_search_cannot_take_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = searching.Evolution

    def evolution(func: tirx.PrimFunc, *more: Any) -> Evolution:
        if tvm_ffi.structural_equal(func, softmax(9)):
            raise RuntimeError("Check failed: TVM does not like it")
        return real(func, *more)

    monkeypatch.setattr(searching, "Evolution", evolution)
    with caplog.at_level(logging.INFO):
        found = search(tmp_path, Bench(lambda func: 1e-4), function(softmax(9), "odd", 99), function(softmax()))
    assert (found["odd"].measured, found["softmax"].measured) == (1, 17)
    assert "odd cannot be searched: Check failed" in caplog.text


@pytest.mark.parametrize(("answers", "found"), [(20, True), (5, False)], ids=["later", "in the first round"])
def test_a_device_that_goes_away_leaves_what_was_found(tmp_path: Path, answers: int, found: bool) -> None:
    calls = iter(range(1000))

    def seconds(func: tirx.PrimFunc) -> float:
        if next(calls) > answers:
            raise CompileError("the device does not respond any more")
        return general_is(2e-4, 1e-4)(func)

    with pytest.raises(CompileError):
        search(tmp_path, Bench(seconds), function(softmax()), budget=1000)
    record = kept(tmp_path).find(key(softmax()))
    assert record is not None
    assert (record.trace is not None) == found
    assert record.measured > 1, "the next run goes on with other candidates"


NETWORK = """net (float[4,8,8,8] x, float[4,8,8,8] y, float[n] open) =>
  (float[4,8,8] a, float[4,8,8] b, float[4,16,8,8] c, float[n] d)
{
  a = ReduceMax <keepdims=0> (x, axes)
  b = ReduceMax <keepdims=0> (y, axes)
  c = Conv <pads=[1,1,1,1]> (x, w)
  d = Exp (open)
}"""


def test_what_is_searched_of_a_model() -> None:
    """Equal functions once, with their calls; nothing of kernel families, nothing of open sizes."""
    model = model_of(NETWORK, {"w": np.ones((16, 8, 3, 3), np.float32), "axes": np.array([3])})
    lowered = lower(model, MACHINE)
    mod = fuse(lowered.mod, tvm_target(TARGET), Cpu(MACHINE))
    found = {one.name: one.calls for one in functions_of(mod, lowered.layers, MACHINE)}
    assert [calls for name, calls in found.items() if "max" in name] == [2]
    assert not any("conv" in name or "exp" in name for name in found), found
