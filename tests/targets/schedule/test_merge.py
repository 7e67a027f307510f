"""Elementwise blocks are merged into the one that reads them, each value written once."""

from __future__ import annotations

import numpy as np
import pytest
import tvm_ffi
from tvm import s_tir, te, tirx

from graphopt.targets.tvm.kernels.common.merge import merge_elementwise
from graphopt.targets.tvm.tir_passes import let
from tests.targets.schedule.support import placeholder, run_te

X = placeholder((8, 16))


def elementwise(tensor: te.Tensor, function: object, name: str) -> te.Tensor:
    return te.compute(tensor.shape, lambda i, j: function(tensor(i, j)), name=name)  # type: ignore[operator]


def blocks(tensors: list[te.Tensor]) -> list[s_tir.SBlock]:
    """The blocks after merging, without the root."""
    found: list[s_tir.SBlock] = []
    merged = merge_elementwise(te.create_prim_func(tensors))
    tvm_ffi.structural_walk(merged.body, (s_tir.SBlock, found.append))
    return [block for block in found if block.iter_vars]


def square(x: object) -> object:
    return x * x + x  # type: ignore[operator]


def test_a_chain_grows_by_one_operator_a_step() -> None:
    tensors = [X]
    for step in range(20):
        tensors.append(elementwise(tensors[-1], square, f"t{step}"))
    (block,) = blocks([X, tensors[-1]])
    products: list[tirx.Mul] = []
    tvm_ffi.structural_walk(block.body, (tirx.Mul, products.append))
    assert len(products) == 20


def test_both_sides_of_a_diamond_read_one_value() -> None:
    top = elementwise(X, square, "top")
    left, right = (elementwise(top, tirx.exp, "left"), elementwise(top, tirx.abs, "right"))
    y = te.compute(X.shape, lambda i, j: left(i, j) + right(i, j), name="y")
    (block,) = blocks([X, y])
    assert let.is_let(block.body.value)
    given = np.linspace(-2, 2, 128, dtype=np.float32).reshape(8, 16)
    (have,) = run_te([X, y], [given], [given])
    value = given * given + given
    np.testing.assert_allclose(have, np.exp(value) + np.abs(value), rtol=1e-6)


@pytest.mark.parametrize("kind", ["transposed", "reduced", "a result"])
def test_what_is_read_in_another_way_stays(kind: str) -> None:
    a = elementwise(X, square, "a")
    k = te.reduce_axis((0, 16), "k")
    y = {
        "transposed": lambda: te.compute((16, 8), lambda i, j: a(j, i) + a(j, i), name="y"),
        "reduced": lambda: te.compute((8,), lambda i: te.sum(a(i, k), axis=k), name="y"),
        "a result": lambda: elementwise(a, square, "y"),
    }[kind]()
    assert len(blocks([X, a, y] if kind == "a result" else [X, y])) == 2


def test_hundreds_of_operators_are_no_recursion() -> None:
    tensors = [X]
    for step in range(300):
        tensors.append(elementwise(tensors[-1], tirx.tanh if step % 100 == 0 else tirx.abs, f"t{step}"))
    given = np.linspace(-2, 2, 128, dtype=np.float32).reshape(8, 16)
    (have,) = run_te([X, tensors[-1]], [given], [given])
    expected = np.tanh(np.abs(np.tanh(np.abs(np.tanh(given)))))
    np.testing.assert_allclose(have, np.abs(expected), rtol=1e-5)
