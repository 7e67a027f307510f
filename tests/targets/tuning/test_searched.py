"""Records of schedules: which ones are used, and which ones are skipped."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm_ffi
from tvm import te, tirx

from graphopt.hardware.target import Target
from graphopt.targets.tvm.codegen.build import tvm_target
from graphopt.targets.tvm.kernels.family import bare_function
from graphopt.targets.tvm.kernels.plans import default
from graphopt.targets.tvm.tuning.evolution import Evolution, trace_of
from graphopt.targets.tvm.tuning.searched import (
    SUFFIX,
    Found,
    Searched,
    bare,
    check,
    from_text,
    is_searchable,
    key,
    to_text,
)
from tests.targets.schedule.support import execute
from tests.targets.tuning.support import MACHINE, TARGET, conv


def total(name: str = "total", rows: int = 12) -> tirx.PrimFunc:
    """The sum of each row."""
    x = te.placeholder((rows, 20), "float32", f"{name}_in")
    k = te.reduce_axis((0, 20), f"{name}_k")
    return te.create_prim_func([x, te.compute((rows,), lambda i: te.sum(x[i, k], axis=k), name=name)], "int64")


TRACE: list[Any] = trace_of(Evolution(bare(total()), tvm_target(TARGET), [], 1).candidates()[0])


def found(**changes: Any) -> Found:
    known = Searched(TARGET, Path("nowhere"), Path("nowhere"))
    func = bare(total())
    made = Found(known.target, known.toolchain, key(func), to_text(func), 2e-4, 1e-4, TRACE, 9, 1.0)
    return dataclasses.replace(made, **changes)


def searched(folder: Path, *lines: str, target: Target = TARGET) -> Searched:
    """Return the records read from a file with these lines."""
    folder.mkdir(exist_ok=True)
    (folder / f"mine{SUFFIX}").write_text("\n".join(lines) + "\n")
    return Searched(target, folder, folder / "none")


def test_a_record_comes_back(tmp_path: Path) -> None:
    for record in (found(), found(trace=None, seconds=None)):
        assert Found.of_line(record.to_line()) == record
        known = Searched(TARGET, tmp_path, tmp_path / "none")
        known.add(record)
        assert Searched(TARGET, tmp_path, tmp_path / "none").find(record.workload) == record


def test_an_equal_function_of_other_names_gets_the_schedule(tmp_path: Path) -> None:
    func = total("sum_of_rows").with_attr("op_pattern", 3)
    made = searched(tmp_path, found().to_line()).schedule(func)
    assert made is not None
    assert made.attrs["op_pattern"] == 3
    assert not tvm_ffi.structural_equal(made.body, func.body)
    data = np.random.default_rng(0).standard_normal((12, 20)).astype(np.float32)
    (result,) = execute(made.with_attr("global_symbol", "main"), [data], [np.empty(12, np.float32)])
    np.testing.assert_allclose(result, data.sum(1), rtol=1e-5, atol=1e-5)


def test_the_newest_counts(tmp_path: Path) -> None:
    lines = [found(measured=1, time=2.0).to_line(), found(measured=2, time=1.0).to_line()]
    record = searched(tmp_path, *lines).find(found().workload)
    assert record is not None
    assert record.measured == 1


@pytest.mark.parametrize("change", [{"target": "another"}, {"toolchain": "apache-tvm 0.1"}, {"workload": "0"}])
def test_records_of_something_else_do_not_count(tmp_path: Path, change: dict[str, str]) -> None:
    assert searched(tmp_path, found(**change).to_line()).schedule(total()) is None


def broken() -> dict[str, str]:
    table = json.loads(found().to_line())
    annotated = [[["Annotate", ["b0", 1], ["pragma_import_c"], []]], []]
    changed: dict[str, dict[str, Any]] = {
        "a trace without a time": {"seconds": None},
        "a step that TVM would trust": {"trace": [[["UnsafeSetDType", ["b0"], [0, "int8"], []]], []]},
        "an annotation that brings code": {"trace": annotated},
        "no trace": {"trace": 5},
        "no step": {"trace": [[7], []]},
        "half a step": {"trace": [[["Fuse"]], []]},
        "a step of no kind": {"trace": [[[[], [], [], []]], []]},
        "a name that is null": {"trace": [[["GetSBlock", [], [None, "main"], ["b0"]]], []]},
        "a tile of no size": {"trace": [[["SamplePerfectTile", ["l0"], [2, 64], ["v0", "v1"]]], [[0, [0, 4]]]]},
        "a decision of no number": {"trace": [TRACE[0], [["a", "b"]]]},
        "a decision of no step": {"trace": [TRACE[0], [[999, [2, 10]]]]},
        "a decision of a step that has none": {"trace": [TRACE[0], [[0, [2, 10]]]]},
        "no number": {"general": "fast"},
        "no function": {"function": None, "trace": None},
    }
    lines = {name: json.dumps({**table, **change}) for name, change in changed.items()}
    del lines["no function"], table["function"]
    return {**lines, "a field is missing": json.dumps(table), "half a line": found().to_line()[:99], "a list": "[1]"}


@pytest.mark.parametrize("name", broken())
def test_a_broken_line_is_passed_over(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    known = searched(tmp_path, broken()[name])
    assert f"mine{SUFFIX}:1: skipped, because it is not a tuning record" in caplog.text
    assert len(known) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"function": "no function"},
        {"function": to_text(bare(total()))[:-40]},
        {"function": to_text(bare(total(rows=13)))},
        {"trace": [[["GetSBlock", [], ["nobody", "main"], ["b0"]]], []]},
        {"trace": [[["GetLoops", ["b0"], [], ["l0"]]], []]},
        {"trace": [TRACE[0][:-1] + [["Fuse", ["l99", "l98"], [1], ["l100"]]], TRACE[1]]},
        {"trace": [[["GetSBlock", [], ["root", "main"], ["b0"]], ["Unannotate", ["b0"], ["x"], []]], []]},
    ],
)
def test_what_does_not_fit_gives_way_to_the_general_schedule(
    tmp_path: Path, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert searched(tmp_path, found(**change).to_line()).schedule(total()) is None
    assert "is skipped" in caplog.text


def test_what_the_search_makes_may_come_from_a_file() -> None:
    check(TRACE)


def test_functions_become_text_and_back() -> None:
    func = bare(total())
    assert tvm_ffi.structural_equal(from_text(to_text(func)), func)
    for text in ("", "%%%", to_text(func)[10:]):
        with pytest.raises(ValueError, match=r".+"):
            from_text(text)


def gather() -> tirx.PrimFunc:
    x, rows = te.placeholder((9,), "float32", "x"), te.placeholder((4,), "int64", "rows")
    return te.create_prim_func([x, rows, te.compute((4,), lambda i: x[rows[i]])], "int64")


def dynamic() -> tirx.PrimFunc:
    x = te.placeholder((tirx.Var("n", "int64"),), "float32", "x")
    return te.create_prim_func([x, te.compute(x.shape, lambda i: x[i] + 1.0)], "int64")


def covered() -> tirx.PrimFunc:
    family, plan = default(conv(), MACHINE)
    return bare_function(family, conv(), plan)


def empty() -> tirx.PrimFunc:
    x = te.placeholder((0, 3), "float32", "x")
    return te.create_prim_func([x, te.compute((0, 3), lambda i, j: x[i, j] + 1.0)], "int64")


def test_what_can_be_searched() -> None:
    assert is_searchable(total())
    assert [is_searchable(make()) for make in (gather, dynamic, covered, empty)] == [False] * 4
