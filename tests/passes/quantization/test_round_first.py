"""round-first: elements are rounded to bfloat16 where they are computed, not after they were moved."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.hardware.target import Target
from graphopt.ir import DType, Model, infer_shapes, verify
from graphopt.passes.quantization.round_first import RoundFirst
from graphopt.proof.oracle import run_reference
from graphopt.rewriting.pipeline import PassManager, Pipeline
from tests.helpers import model_of
from tests.passes.quantization.measuring import OPSET

DATA = {"X": np.linspace(-3, 3, 48, dtype=np.float32).reshape(2, 4, 6)}
DATA["X"][0, 0, :3] = np.nan, np.inf, 1e-40


def run(body: str, target: str = "x86:znver4", outputs: str = "float[A,B,C] Y") -> tuple[Model, Model, dict]:
    """The model, what the pass makes of it, and the report's counts; both compute the same bits."""
    constants = {
        "shape": np.array([2, 0, -1], np.int64),
        "ends": np.array([3], np.int64),
        "one": np.array([1], np.int64),
    }
    used = {name: value for name, value in constants.items() if name in body}
    model = model_of(f"{OPSET} g (float[2,4,6] X) => ({outputs}) {{ {body} }}", used)
    infer_shapes(model)
    changed = model.copy()
    report = PassManager(Pipeline.of(RoundFirst()), target=Target.load(target)).run(changed)
    verify(changed)
    expected, found = run_reference(model, DATA), run_reference(changed, DATA)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    return model, changed, report


@pytest.mark.parametrize(
    "moves",
    [
        "m = Concat<axis = 1>(a, b)",
        "m = Transpose<perm = [2,0,1]>(a)",
        "m = Slice(a, one, ends, one)",
        "i = Identity(a) m = Reshape(i, shape)",
        "c = Concat<axis = 0>(a, b) t = Transpose<perm = [1,0,2]>(c) m = Concat<axis = -1>(t, t)",
    ],
)
def test_moves_are_of_bfloat16(moves: str) -> None:
    body = f"a = Relu(X)  b = Neg(X)  {moves}  r = Cast<to = 16>(m)  Y = Cast<to = 1>(r)"
    _, changed, _ = run(body)
    kinds = {node.op: node.output.dtype for node in changed.graph.nodes if node.op not in ("Cast", "Relu", "Neg")}
    assert set(kinds.values()) == {DType.BFLOAT16}, kinds
    model, plain, _ = run(body, "x86:v4")
    assert [node.op for node in plain.graph.nodes] == [node.op for node in model.graph.nodes]


def test_what_is_rounded_already_is_not_rounded_again() -> None:
    body = """h = Cast<to = 16>(X)  a = Cast<to = 1>(h)  b = Exp(X)  m = Concat<axis = 0>(a, b)
        r = Cast<to = 16>(m)  Y = Cast<to = 1>(r)"""
    _, changed, _ = run(body)
    concat = next(node for node in changed.graph.nodes if node.op == "Concat")
    assert concat.inputs[0] is not None
    assert concat.inputs[0].producer is not None
    assert concat.inputs[0].producer.inputs[0] is changed.graph.inputs[0]


def test_what_is_read_as_float32_too_stays() -> None:
    body = "a = Relu(X)  m = Concat<axis = 0>(a, a)  r = Cast<to = 16>(m)  Y = Cast<to = 1>(r)  Z = Neg(m)"
    _, changed, report = run(body, outputs="float[A,B,C] Y, float[D,E,F] Z")
    assert next(node for node in changed.graph.nodes if node.op == "Concat").output.dtype is DType.FLOAT
    assert report.misses["round-first", "what is moved is read as float32 too"] == 1
