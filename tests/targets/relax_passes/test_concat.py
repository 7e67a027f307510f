"""Concatenations computed in place: fewer kernels, the same numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest

from graphopt.driver import compiling as compiler
from graphopt.runtime.session import load
from tests.helpers import model_of
from tests.targets.lowering.support import expected, noise

CASES = {
    "pieces": """g (float[1,16,6,6] X) => (float[1,40,6,6] Y) {
        a = Conv (X, w)  p = Relu (a)  b = Conv <pads = [1,1,1,1]> (X, v)
        c = Concat <axis = 1> (p, b)  Y = Sigmoid (c) }""",
    "a chain, as in DenseNet": """g (float[1,16,6,6] X) => (float[1,16,1,1] Y) {
        a = Conv (X, u)  b = Conv (a, u)  c = Concat <axis = 1> (a, b)
        d = Relu (c)     e = Conv (d, t)  f = Concat <axis = 1> (c, e)
        i = Conv (f, s)  Y = GlobalAveragePool (i) }""",
    "an input among them": """g (float[2,8,5,5] X, float[2,16,5,5] Z) => (float[2,40,5,5] Y) {
        a = Relu (X)  b = Conv (Z, w)  c = Concat <axis = 1> (a, Z, b)  Y = Tanh (c) }""",
    "pooled and filtered pieces": """g (float[1,16,9,9] X) => (float[1,48,5,5] Y) {
        a = Conv <pads = [1,1,1,1]> (X, m)    b = MaxPool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (a)
        c = Conv <group = 16, pads = [1,1,1,1], strides = [2,2]> (a, k)  d = Relu (c)
        e = AveragePool <kernel_shape = [1,1], strides = [2,2]> (a)
        f = Concat <axis = 1> (b, d, e)       Y = Tanh (f) }""",
    "along a spatial axis": """g (float[1,16,6,6] X) => (float[1,16,12,6] Y) {
        a = Conv <pads = [1,1,1,1]> (X, m)  b = LRN <size = 3> (a)  c = Conv <pads = [1,1,1,1]> (b, m)
        d = Concat <axis = 2> (b, c)        Y = Abs (d) }""",
    "along the batch": """g (float[2,16,6,6] X) => (float[4,16,3,3] Y) {
        a = Conv <pads = [1,1,1,1]> (X, m)  p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)  b = Neg (p)
        d = Concat <axis = 0> (p, b)        Y = Abs (d) }""",
    "read from the beginning": """g (float[1,16,6,6] X) => (float[1,32,6,6] Y, float[1,16,6,6] Z, float[1,16,3,3] V) {
        a = Conv <pads = [1,1,1,1]> (X, m)  b = Conv <pads = [1,1,1,1]> (a, m)  c = Concat <axis = 1> (a, b)
        l = LRN <size = 5> (a)              Z = Relu (l)  V = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)
        Y = Abs (c) }""",
    "rows of a product": """g (float[4,16] X) => (float[4,48] Y, float[4,16] Z) {
        a = MatMul (X, q)  b = Exp (a)  c = Concat <axis = 1> (a, b, X)  Y = Abs (c)  Z = MatMul (a, q) }""",
    "one value twice": """g (float[1,16,4,4] X) => (float[1,48,4,4] Y) {
        a = Conv (X, u)  c = Concat <axis = 1> (a, a, X)  Y = Relu (c) }""",
    "a piece in two of them": """g (float[1,16,4,4] X) => (float[1,32,4,4] Y, float[1,48,4,4] Z) {
        a = Conv (X, u)  b = Conv (a, u)  c = Concat <axis = 1> (a, b)  d = Concat <axis = 1> (b, c)
        Y = Relu (c)     Z = Neg (d) }""",
    "a piece that is a result": """g (float[1,16,4,4] X) => (float[1,16,4,4] A, float[1,32,4,4] Y) {
        A = Conv (X, u)  c = Concat <axis = 1> (A, X)  Y = Abs (c) }""",
    "rows and columns": """g (float[4,6] X) => (float[8,12] Y) {
        a = Exp (X)  b = Neg (X)  c = Concat <axis = 1> (a, b)
        d = Abs (c)  e = Concat <axis = 0> (c, d)  Y = Relu (e) }""",
}
WEIGHTS = {"w": (16, 16, 1, 1), "v": (24, 16, 3, 3), "u": (16, 16, 1, 1), "t": (8, 32, 1, 1), "s": (16, 40, 1, 1)}
WEIGHTS |= {"m": (16, 16, 3, 3), "k": (16, 1, 3, 3), "q": (16, 16)}


@pytest.mark.parametrize("text", CASES.values(), ids=CASES.keys())
def test_the_same_numbers(text: str) -> None:
    used = {name: noise(*shape) for name, shape in WEIGHTS.items() if re.search(rf"\b{name}\b", text)}
    model = model_of(text, used)
    given = {value.name: noise(*value.shape, seed=7) for value in model.graph.inputs if value.tensor is None}
    artifact = compiler.compile(model, inputs={})
    session = load(artifact.folder, threads=2)
    for _ in range(2):  # what the first run left in memory must not matter
        found = session.run(given)
        for output, want in zip(model.graph.outputs, expected(model, given), strict=True):
            np.testing.assert_allclose(found[output.name], want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_nothing_is_copied() -> None:
    weights = {name: noise(*WEIGHTS[name]) for name in "uts"}
    artifact = compiler.compile(model_of(CASES["a chain, as in DenseNet"], weights))
    kernels = (artifact.folder / "kernels.json").read_text()
    assert "concatenate" not in kernels
    assert "copy" not in kernels
