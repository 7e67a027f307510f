"""Kernels that are equal but for numbers are one function, with the numbers as parameters; results stay the same."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import tirx

import graphopt
from graphopt.ir import Model
from graphopt.proof.oracle import run_reference
from graphopt.targets.tvm.cpu.pipeline import Cpu
from graphopt.targets.tvm.device import fuse
from graphopt.targets.tvm.lowering.lower import lower
from graphopt.targets.tvm.machine import machine_of
from tests.helpers import model_of
from tests.targets.lowering.support import noise

WEIGHTS = {"q": noise(16, 16) / 4, "r": noise(16, 16) / 4}
NUMBERS = {
    "s": np.float32(0.5),
    "t": np.float32(0.25),
    "one": np.float32(1),
    "p": np.uint8(3),
    "z": np.uint8(17),
    "inf": np.float32(np.inf),
}


def model(body: str) -> Model:
    return model_of(f"g (float[7,16] X) => (float[7,16] Y) {{ {body} }}", {**WEIGHTS, **NUMBERS})


def functions(made: Model) -> list[tirx.PrimFunc]:
    """Return the fused functions, before they are scheduled."""
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"})
    machine = machine_of(target)
    mod = fuse(lower(made, machine).mod, target, Cpu(machine))
    return [func for _, func in mod.functions_items() if isinstance(func, tirx.PrimFunc)]


def numbers_of(func: tirx.PrimFunc) -> int:
    return sum(param.name.startswith("number") for param in func.params)


def check(made: Model) -> None:
    feed = {"X": noise(7, 16)}
    found = graphopt.compile(made, passes="").run(feed)["Y"]
    np.testing.assert_allclose(found, run_reference(made, feed)["Y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "count", "numbers"),
    [
        ("a = MatMul (X, q) b = Mul (a, s) c = MatMul (b, r) Y = Mul (c, t)", 1, 1),
        ("a = MatMul (X, q) b = Mul (a, s) c = MatMul (b, r) Y = Mul (c, s)", 1, 0),
        ("a = MatMul (X, q) b = Mul (a, s) c = MatMul (b, r) Y = Add (c, t)", 2, 0),
        ("a = MatMul (X, q) b = Mul (a, s) c = MatMul (b, r) Y = Mul (c, one)", 2, 0),
        ("a = MatMul (X, q) b = Min (a, s) c = MatMul (b, r) Y = Min (c, inf)", 2, 0),
        (
            "a = MatMul (X, q) b = QuantizeLinear (a, s, p) c = DequantizeLinear (b, s, p)"
            " d = MatMul (c, r) e = QuantizeLinear (d, t, z) Y = DequantizeLinear (e, t, z)",
            1,
            2,
        ),
        ("a = Softmax (X) b = Mul (a, s) c = Softmax (b) Y = Mul (c, t)", None, 1),
    ],
)
def test_functions_that_differ_in_numbers(body: str, count: int | None, numbers: int) -> None:
    made = model(body)
    found = functions(made)
    if count is not None:
        assert len(found) == count
    assert max(map(numbers_of, found)) == numbers
    check(made)


def test_integers() -> None:
    """As the zero points of matmuls of bytes; those by which elements are found stay."""
    weights = {"p": np.int32(5), "q": np.int32(7), "i": np.array([1, -2, 3], np.int32)}
    text = """g (int32[7,16] X) => (int32[7,3] Y) {
        a = Mul (X, p) b = Neg (a) c = Mul (b, q) d = Gather <axis = 1> (c, i) Y = Neg (d) }"""
    made = model_of(text, weights)
    feed = {"X": noise(7, 16, dtype="int32")}
    found = graphopt.compile(made, passes="").run(feed)["Y"]
    np.testing.assert_array_equal(found, run_reference(made, feed)["Y"])


def test_scales_and_zero_points() -> None:
    """Two quantized layers of equal sizes share each of their functions."""
    layer = "{b} = MatMul ({a}, q) {b}q = QuantizeLinear ({b}, {s}, {z}) {b}d = DequantizeLinear ({b}q, {s}, {z})"
    body = layer.format(a="X", b="u", s="s", z="p") + layer.format(a="ud", b="v", s="t", z="z") + "Y = Identity (vd)"
    made = model(body)
    assert max(map(numbers_of, functions(made))) >= 2
    check(made)
