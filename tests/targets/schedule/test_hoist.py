"""Index arithmetic of open sizes is computed once, where the loops that it depends on begin."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import te, tirx

from graphopt.targets.tvm.tir_passes.hoist import hoist_indices
from tests.targets.lowering.support import check_for_machine, noise
from tests.targets.schedule.support import placeholder, run_te

MATMUL = (
    '<ir_version: 10, opset_import: ["": 22]> g (float[b,h,s,32] x, float[b,h,32,s] z, float[b,1,s,s] m) '
    "=> (float[?,?,?,?] y) { p = MatMul(x, z)  y = Add(p, m) }"
)


def test_a_product_of_three_open_sizes_at_odd_sizes() -> None:
    """No batch, no heads, rows that fill no tile: divisions by sizes of 0 and 1."""
    sizes = [(1, 1, 1), (2, 3, 5), (1, 2, 37), (0, 3, 4), (2, 0, 4), (2, 3, 0)]
    given = [{"x": noise(b, h, s, 32), "z": noise(b, h, 32, s), "m": noise(b, 1, s, s)} for b, h, s in sizes]
    check_for_machine(MATMUL, *given)


def nest() -> tirx.PrimFunc:
    """`y[i * n * m + j // m] = x[...]` for an open n and m, 40 times with another constant."""
    n, m, whole = (tirx.Var(name, "int64") for name in ("n", "m", "whole"))
    x = tirx.decl_buffer([whole], "float32", "x")
    y = tirx.decl_buffer([whole], "float32", "y")
    i, j = tirx.Var("i", "int64"), tirx.Var("j", "int64")
    zero = tirx.const(0, "int64")
    stores = [tirx.BufferStore(y, x[i // m * n + j + k], [i // m * n * m + j + k]) for k in range(40)]
    inner = tirx.For(j, zero, m, tirx.ForKind.SERIAL, tirx.SeqStmt(stores))
    return tirx.PrimFunc([x, y], tirx.For(i, zero, n, tirx.ForKind.SERIAL, inner)).with_attr("global_symbol", "main")


def count(body: tirx.Stmt, kind: type) -> int:
    found: list[object] = []
    tvm_ffi.structural_walk(body, (kind, found.append))
    return len(found)


def test_a_division_is_carried_out_once_for_each_iteration_that_changes_it() -> None:
    func = nest()
    hoisted = hoist_indices()(tvm.IRModule({"main": func}))["main"]
    assert count(func.body, tirx.FloorDiv) == 80
    assert count(hoisted.body, tirx.FloorDiv) == 1
    assert count(hoisted.body.body, tirx.FloorDiv) == 1, "inside the loop over i"
    inner: list[tirx.For] = []
    tvm_ffi.structural_walk(hoisted.body.body, (tirx.For, inner.append))
    assert count(inner[-1].body, tirx.FloorDiv) == 0, "and before that over j"
    assert count(inner[-1].body, tirx.Mul) == 0


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_loop_of_no_iterations_divides_by_nothing(size: int) -> None:
    n = tirx.Var("n", "int64")
    x = placeholder((3, n))
    y = te.compute((3 * n,), lambda i: x(i // n, i % n) * tirx.const(2.0, "float32"), name="y")
    given = noise(3, size)
    (have,) = run_te([x, y], [given], [given.reshape(-1)])
    np.testing.assert_array_equal(have, 2 * given.reshape(-1))
