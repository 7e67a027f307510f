"""The fuzzer: the same graph for the same seed, faults found and made small, processes that die survived."""

from __future__ import annotations

import subprocess
import sys
import unittest.mock
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.helpers import parse_proto
from tools.fuzz import Worker, levels_of, main
from tools.fuzzing import check as checking
from tools.fuzzing.check import LEVELS, Finding, check, difference, tolerance_of
from tools.fuzzing.graph import Case, Growing, Refused, parted
from tools.fuzzing.make import COMMON, expected, make, other_sizes
from tools.fuzzing.operators import MAKERS
from tools.fuzzing.shrink import shrink, write

CHAIN = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n,4] x, float[n,4] z) => (float[?,?] y, float[?,?] w)
    { a = Relu(x)  b = Floor(a)  c = Neg(b)  y = Abs(c)  w = Tanh(z) }"""


def case() -> Case:
    given = {name: np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4) for name in ("x", "z")}
    return Case(1, parse_proto(CHAIN), given)


def test_a_seed_is_a_case() -> None:
    for seed in range(5):
        first, second = make(seed), make(seed)
        assert first.model == second.model
        assert all(np.array_equal(first.inputs[n], second.inputs[n], equal_nan=True) for n in first.inputs)
    assert make(5).model != make(6).model


def test_graphs_are_what_is_promised() -> None:
    """Over some seeds: sizes, opsets, open dimensions, and nearly every graph runs in ONNX Runtime."""
    cases = [make(seed) for seed in range(60)]
    nodes = [len(one.operators().split()) for one in cases]
    assert min(nodes) >= 1
    assert max(nodes) <= 12
    assert np.mean(nodes) > 4
    opsets = {one.model.opset_import[0].version for one in cases}
    assert min(opsets) < 10
    assert max(opsets) > 22
    assert sum(any(True for _ in other_sizes(one)) for one in cases) > 10
    assert sum(expected(one.model, one.inputs) is not None for one in cases) > 55
    assert len({op for one in cases for op in one.operators().split()}) > 60


def test_every_operator_that_is_drawn_often_has_a_maker() -> None:
    assert set(MAKERS) >= COMMON


def test_every_supported_operator_has_a_maker() -> None:
    """Or a reason why not."""
    from graphopt.targets.tvm.converters import operators

    others = {"Constant", "Scatter"}  # constants are operands; Scatter is deprecated
    assert {op for op in operators() if "::" not in op} - set(MAKERS) <= others


def test_what_is_refused_leaves_nothing_behind() -> None:
    grown = Growing(3, 17)

    def wrong(g: Growing) -> None:
        g.add("Reshape", g.fresh("float32", (2, 3)), g.constant([7], "int64"))

    grown.attempt(wrong)
    assert not any((grown.values, grown.inputs, grown.initializers, grown.nodes, grown.made))
    with pytest.raises(Refused, match="cannot"):
        wrong(grown)


def test_what_hangs_on_a_rounding_is_refused() -> None:
    """The square of a root is 2 or a little less: its floor is 2 or 1."""
    grown = Growing(1, 17)
    value = grown.input(np.full(100, 2, np.float32))
    (root,) = grown.add("Sqrt", value)
    (square,) = grown.add("Mul", root, root)
    with pytest.raises(Refused, match="badly conditioned"):
        grown.add("Floor", square)
    assert parted(value.array, value.near) == 0
    assert 0 < parted(square.array, square.near) < 1e-5


def test_a_right_case_is_ok_and_a_refused_one_is_skipped() -> None:
    assert check(case(), LEVELS, []) == Finding("ok")
    bad = case()
    bad.inputs["x"] = bad.inputs["x"][:, :3]
    assert check(bad, LEVELS, []) == Finding("skipped")


@pytest.mark.parametrize("array", [[1.0, 2.1], [1.0], [1.0, float("nan")]])
def test_differences_are_seen(array: list[float]) -> None:
    wanted = {"y": np.array([1.0, 2.0], np.float32)}
    tolerance = tolerance_of(Case(0, onnx.ModelProto(), {}), wanted)
    assert difference(wanted, {"y": np.array(array, np.float32)}, tolerance)
    assert not difference(wanted, dict(wanted), tolerance)


def test_a_planted_fault_is_found_and_made_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An optimizer that makes every Floor a Ceil: what is left of the graph is one Floor at fixed sizes."""
    right = checking.graphopt.optimize

    def wrong(model: onnx.ModelProto, level: str) -> object:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        for node in changed.graph.node:
            node.op_type = "Ceil" if node.op_type == "Floor" else node.op_type
        return right(changed, level)

    monkeypatch.setattr(checking.graphopt, "optimize", wrong)
    finding = check(case(), LEVELS, [])
    assert (finding.kind, finding.stage) == ("failed", "optimize O0")
    small, again = shrink(case(), finding, lambda smaller: check(smaller, ["O0"], []))
    assert again.failed
    assert small.operators() == "Floor"
    assert list(small.inputs) == ["a"]
    assert not any(True for _ in other_sizes(small))
    folder = write(small, again, tmp_path / "found")
    assert "optimize O0" in (folder / "README").read_text().splitlines()[0]
    np.testing.assert_array_equal(np.load(folder / "expected_0.npz")["b"], np.floor(small.inputs["a"]))
    done = subprocess.run([sys.executable, str(folder / "repro.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("relative error 0,") == 2, "without the planted fault it is right"


def test_a_process_that_dies_or_hangs_is_a_finding() -> None:
    worker = Worker(limit=60)
    assert worker.check(case(), ["O1"], []).kind == "ok"
    worker._process.kill()
    worker._process.join()
    finding = worker.check(case(), ["O1"], [])
    assert finding.kind == "skipped", "so far, only ONNX Runtime would have computed"
    assert "died" in finding.text
    assert worker.check(case(), ["O1"], []).kind == "ok"
    worker._pipe.close()  # of which the child ends
    worker._pipe = unittest.mock.Mock(recv=unittest.mock.Mock(side_effect=[None, EOFError]))
    finding = worker.check(case(), ["O1"], [])
    assert finding.failed
    assert "died" in finding.text
    worker.limit = -200.0
    assert "more than" in worker.check(case(), ["O1"], []).text
    worker.close()


@pytest.mark.parametrize(("kind", "status"), [("ok", 0), ("failed", 1)])
def test_the_command(
    kind: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert levels_of(6, every=False) == ("O2",)
    assert levels_of(6, every=True) == LEVELS
    monkeypatch.setattr(Worker, "check", lambda *_: Finding(kind, "compile O1", "as planted"))
    assert main(["--seeds", "0:3", "--jobs", "2", "--findings", str(tmp_path)]) == status
    assert f": 3 {kind}" in capsys.readouterr().out.splitlines()[-1]
    assert len(list(tmp_path.iterdir())) == 3 * status


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_graphs_of_fixed_seeds(first: int) -> None:
    """Nothing is found in 100 graphs; `tools/fuzz.py` runs as many as are wanted."""
    worker = Worker(limit=60)
    found = {}
    for seed in range(first, first + 25):
        if (finding := worker.check(seed, LEVELS, levels_of(seed, every=False))).failed:
            found[seed] = f"{finding.stage}: {finding.text[:500]}"
    worker.close()
    assert found == {}
