"""The tolerance of models that round to integers: steps are allowed there, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import VerificationError
from graphopt.ir import DType, Graph
from graphopt.proof.numerical import CheckNumbers
from graphopt.proof.oracle import run_reference
from graphopt.proof.standard import is_rounded, standard_of
from graphopt.proof.tolerance import Tolerance, compare
from graphopt.rewriting.passes import Fidelity, Pass, PassContext
from graphopt.rewriting.pipeline import PassManager, Pipeline
from tests.helpers import model_of

FLOATS = "g (float[2,3] X) => (float[2,3] Y) { Y = Mul(X, f) }"
ROUNDED = """g (float[2,3] X) => (float[2,3] Y) {
    q = QuantizeLinear(X, s, z) x = DequantizeLinear(q, s, z) Y = Mul(x, f) }"""
STORED = "g (float[2,3] X) => (float[2,3] Y) { w = DequantizeLinear(i, s) Y = Mul(X, w) }"
WEIGHTS = {"s": np.array(0.02, np.float32), "z": np.array(9, np.uint8), "f": np.array(2, np.float32)}
WEIGHTS |= {"i": np.array([[1, 2, 3]], np.int8)}


class _Scale(Pass):
    """Multiply the constant by a number: an error of known size."""

    name = "scale-for-tests"
    fidelity = Fidelity.FLOAT
    factor = 1.0

    def run(self, graph: Graph, context: PassContext) -> None:
        value = graph.find("f")
        assert value is not None
        rewriter = context.rewriter(graph)
        changed = rewriter.constant(np.array(2 * self.factor, np.float32))
        rewriter.replace_uses(value, changed)


class _Little(_Scale):
    factor = 1.02


class _Much(_Scale):
    factor = 1.2


def test_which_models_round() -> None:
    assert is_rounded(model_of(ROUNDED, WEIGHTS))
    assert not is_rounded(model_of(FLOATS, WEIGHTS))
    assert not is_rounded(model_of(STORED, WEIGHTS))  # weights alone
    assert standard_of(model_of(FLOATS, WEIGHTS)).allowed("Y", DType.FLOAT) == 1e-4
    assert standard_of(model_of(ROUNDED, WEIGHTS)).allowed("Y", DType.UINT8) == 5e-2


@pytest.mark.parametrize(
    ("text", "pass_", "fails"),
    [(FLOATS, _Little(), True), (ROUNDED, _Little(), False), (ROUNDED, _Much(), True)],
)
def test_passes_are_judged_by_it(text: str, pass_: Pass, fails: bool) -> None:
    manager = PassManager(Pipeline.of(pass_), [CheckNumbers()])
    if fails:
        with pytest.raises(VerificationError, match="scale-for-tests"):
            manager.run(model_of(text, WEIGHTS))
    else:
        manager.run(model_of(text, WEIGHTS))


def test_floats_of_16_bits_inside_of_a_model() -> None:
    half = "g (float[2,3] X) => (float[2,3] Y) { h = Cast<to=10>(X) a = Neg(h) Y = Cast<to=1>(a) }"
    assert standard_of(model_of(half)).allowed("Y", DType.FLOAT) == 1e-2
    assert standard_of(model_of(half.replace("to=10", "to=16"))).allowed("Y", DType.FLOAT) == 4e-2
    assert standard_of(model_of(half)).allowed("Y", DType.DOUBLE) == 1e-7


def test_products_that_round_their_data() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g (float[1,32] x) => (float[1,4] y) {
        y = com.microsoft.MatMulNBits<K = 32, N = 4, bits = 4, block_size = 32, accuracy_level = LEVEL>(x, w, s) }"""
    given = {"w": np.zeros((4, 1, 16), np.uint8), "s": np.ones((4, 1), np.float32)}
    assert is_rounded(model_of(text.replace("LEVEL", "4"), given))
    assert not is_rounded(model_of(text.replace("LEVEL", "1"), given))


def test_a_bias_that_is_off_by_three_steps_is_caught() -> None:
    """Results of integers are held to few steps of theirs: one wrong channel shows, the rounding of sums does not."""
    text = """g (float[1,8,6,6] X) => (float[1,8,6,6] Y) {
        q = QuantizeLinear(X, s, z) x = DequantizeLinear(q, s, z) k = DequantizeLinear(w, t) c = DequantizeLinear(b, u)
        a = Conv <pads = [1,1,1,1]> (x, k, c) p = QuantizeLinear(a, o, z) Y = DequantizeLinear(p, o, z) }"""
    rng = np.random.default_rng(0)
    bias = rng.integers(-2000, 2000, 8).astype(np.int32)
    numbers = {name: np.float32(number) for name, number in {"s": 0.02, "t": 0.01, "u": 0.0002, "o": 0.04}.items()}
    weights = {**numbers, "z": np.uint8(128), "w": rng.integers(-127, 128, (8, 8, 3, 3)).astype(np.int8), "b": bias}
    model = model_of(text, weights)
    wrong = bias.copy()
    wrong[5] += round(3 * 0.04 / 0.0002)
    inputs = {"X": rng.normal(size=(1, 8, 6, 6)).astype(np.float32)}
    expected = run_reference(model, inputs)
    tolerance = standard_of(model)
    broken = run_reference(model_of(text, {**weights, "b": wrong}), inputs)
    assert not compare(expected, broken, tolerance).ok
    assert compare(expected, broken, Tolerance.uniform(5e-2)).ok, "no error relative to the largest result shows it"
    step = {"Y": expected["Y"] + np.float32(0.04) * (rng.random(expected["Y"].shape) < 0.1).astype(np.float32)}
    assert compare(expected, step, tolerance).ok
    assert tolerance.absolute["Y"] == pytest.approx(0.08, rel=1e-2)
