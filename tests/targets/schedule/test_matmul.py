"""Matmuls against numpy, with remainders, broadcasting and symbolic sizes."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import ir, te, tirx

from graphopt.hardware.target import load
from graphopt.targets.tvm.codegen.build import tvm_target
from graphopt.targets.tvm.kernels.family import FLOAT32, Dtypes
from graphopt.targets.tvm.kernels.matmul.compute import matmul, matmul_packed, pack_matrix
from graphopt.targets.tvm.kernels.matmul.family import Matmul
from graphopt.targets.tvm.kernels.matmul.plan import MatmulPlan, MatmulWorkload, candidates
from graphopt.targets.tvm.machine import Machine, machine_for
from graphopt.targets.tvm.tir_passes.pipeline import PIPELINE
from tests.targets.schedule.support import MACHINE, execute, placeholder, run_te, scheduled


def close(out: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    assert out.shape == expected.shape
    if expected.size:
        np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def plan_matmul(
    m: int | None, n: int | None, k: int | None, dtype: str, machine: Machine, packed: bool = False
) -> MatmulPlan:
    return MatmulPlan.default(MatmulWorkload(m, n, k, Dtypes.of(dtype), packed), machine)


def random(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize(
    ("batch", "m", "n", "k"),
    [((), 1, 1000, 64), ((), 1, 1, 1), ((), 7, 33, 5), ((2,), 13, 64, 31), ((1, 3), 128, 96, 16), ((), 197, 10, 8)],
)
def test_packed(batch: tuple[int, ...], m: int, n: int, k: int) -> None:
    plan = plan_matmul(m, n, k, "float32", MACHINE, packed=True)
    a, b = random(*batch, m, k), random(k, n)
    x, w = placeholder(a.shape, name="a"), placeholder(plan.packed_shape, name="b")
    expected = a.astype("float64") @ b
    (out,) = run_te([x, w, matmul_packed(x, w, plan)], [a, pack_matrix(b, plan)], [expected.astype("float32")])
    close(out, expected)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((4, 6), (6, 5)),
        ((2, 3, 9, 8), (2, 3, 8, 32)),
        ((3, 9, 8), (8, 17)),
        ((9, 8), (2, 3, 8, 17)),
        ((2, 1, 9, 8), (1, 3, 8, 40)),
        ((2, 0, 8), (2, 8, 3)),
    ],
)
def test_both_at_run_time(left: tuple[int, ...], right: tuple[int, ...], transposed: bool) -> None:
    a, b = random(*left), random(*right)
    plan = turned(plan_matmul(left[-2], right[-1], left[-1], "float32", MACHINE), b=transposed)
    given = np.ascontiguousarray(np.swapaxes(b, -1, -2)) if transposed else b
    x, y = placeholder(a.shape, name="a"), placeholder(given.shape, name="b")
    expected = a @ b
    (out,) = run_te([x, y, matmul(x, y, plan)], [a, given], [expected])
    close(out, expected)


SIZES = (1, 3, 7, 8, 9, 17, 31, 64, 100)


@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("turns", [(False, False), (True, False), (False, True), (True, True)])
def test_odd_sizes(m: int, turns: tuple[bool, bool]) -> None:
    """Each size of one axis with others of the others, both orders of both operands, packed and not."""
    for shift in (0, 1, 4):
        n, k = SIZES[(SIZES.index(m) + shift) % 9], SIZES[(SIZES.index(m) + 2 * shift + 3) % 9]
        a, b = random(m, k), random(k, n)
        left = np.ascontiguousarray(a.T) if turns[0] else a
        right = np.ascontiguousarray(b.T) if turns[1] else b
        plan = plan_matmul(m, n, k, "float32", MACHINE, packed=not turns[1])
        x, y = placeholder(left.shape, name="a"), placeholder(right.shape, name="b")
        (out,) = run_te([x, y, matmul(x, y, turned(plan, *turns))], [left, right], [a @ b])
        close(out, a @ b)
        if not turns[1]:
            w = placeholder(plan.packed_shape, name="b")
            (out,) = run_te(
                [x, w, matmul_packed(x, w, turned(plan, turns[0], packed=True))], [left, pack_matrix(b, plan)], [a @ b]
            )
            close(out, a @ b)


def turned(plan: MatmulPlan, a: bool = False, b: bool = False, packed: bool = False) -> MatmulPlan:
    """The plan for operands that come transposed, the right one known only at run time unless `packed`."""
    return replace(plan, workload=replace(plan.workload, packed=packed, transpose_a=a, transpose_b=b))


@pytest.mark.parametrize(("m", "n", "k"), [(20, 48, 100), (5, 33, 31), (128, 17, 64), (1, 100, 300)])
def test_every_candidate(m: int, n: int, k: int) -> None:
    a, b = random(m, k), random(k, n)
    work = MatmulWorkload(m, n, k, FLOAT32, packed=True)
    plans = list(candidates(work, MACHINE))
    assert plans[0] == MatmulPlan.default(work, MACHINE)
    for plan in [*plans, replace(plans[0], k_block=max(1, k // 3)), replace(plans[0], m_block=1)]:
        x, w = placeholder(a.shape, name="a"), placeholder(plan.packed_shape, name="b")
        (out,) = run_te([x, w, matmul_packed(x, w, plan)], [a, pack_matrix(b, plan)], [a @ b])
        close(out, a @ b)


@pytest.mark.parametrize("costly", [False, True])
@pytest.mark.parametrize(("m", "n"), [(13, 24), (4, 48), (6, 37), (40, 1)])
def test_what_follows_is_computed_on_the_tile(m: int, n: int, costly: bool) -> None:
    plan = plan_matmul(m, n, 20, "float32", MACHINE, packed=True)
    a, b, bias, rest = random(m, 20), random(20, n), random(n), random(m, n)
    x, w = placeholder(a.shape, name="a"), placeholder(plan.packed_shape, name="w")
    c, r = placeholder((n,), name="c"), placeholder((m, n), name="r")
    total = matmul_packed(x, w, plan)
    biased = te.compute(total.shape, lambda i, j: total(i, j) + c(j), name="biased")
    active = te.compute(total.shape, lambda i, j: tirx.tanh(biased(i, j)) if costly else biased(i, j), name="active")
    added = te.compute(total.shape, lambda i, j: active(i, j) + r(i, j), name="added")
    func = scheduled([x, w, c, r, added])
    stores: list[tirx.BufferStore] = []
    tvm_ffi.structural_walk(func.body, [(tirx.BufferStore, stores.append)])
    names = {store.buffer.name for store in stores}
    assert names <= {"sum", "sums", "added"}, "something between is stored"
    expected = a @ b + bias
    expected = (np.tanh(expected) if costly else expected) + rest
    (out,) = execute(func, [a, pack_matrix(b, plan), bias, rest], [expected])
    close(out, expected)


@pytest.mark.parametrize("batch", [(), (1,), (2, 1)])
def test_the_next_panel_and_the_residual_are_fetched_ahead(batch: tuple[int, ...]) -> None:
    """Whatever axes the left operand has: a wrong address costs time and changes no result."""
    m, k = 40, 64
    machine = machine_for(load("x86"))
    plan = plan_matmul(m, 96, k, "float32", machine, packed=True)
    a, b, rest = random(*batch, m, k), random(k, 96), random(*batch, m, 96)
    x, w, r = (
        placeholder(a.shape, name="a"),
        placeholder(plan.packed_shape, name="w"),
        placeholder(rest.shape, name="r"),
    )
    total = matmul_packed(x, w, plan)
    func = scheduled([x, w, r, te.compute(total.shape, lambda *at: total(*at) + r(*at), name="added")], machine)
    fetched: list[tirx.BufferLoad] = []

    def look(call: ir.Call) -> None:
        if str(getattr(call.op, "name", "")) == "tirx.address_of":
            fetched.append(call.args[0])

    tvm_ffi.structural_walk(func.body, [(ir.Call, look)])
    assert {load.source.name for load in fetched} == {"w", "r"}
    assert all(len(load.indices) == len(load.source.shape) for load in fetched)
    (out,) = execute(func, [a, pack_matrix(b, plan), rest], [rest])
    close(out, a @ b + rest)


def test_a_row_of_a_tile_of_several_cache_lines_is_fetched_line_by_line() -> None:
    machine = machine_for(load("x86:v4"))
    plan = replace(plan_matmul(4, 128, 8, "float32", machine, packed=True), rows=4, vectors=2)
    x, w, r = placeholder((4, 8), name="a"), placeholder(plan.packed_shape, name="w"), placeholder((4, 128), name="r")
    total = matmul_packed(x, w, plan)
    func = scheduled([x, w, r, te.compute(total.shape, lambda i, j: total(i, j) + r(i, j), name="added")], machine)
    assert func.script().count("T.address_of(r[") == 4 * 2


@pytest.mark.parametrize("target", ["x86:v4", "x86", "arm"])
def test_other_machines_compile(target: str) -> None:
    description = load(target)
    machine, made_for = machine_for(description), tvm_target(description)
    plan = plan_matmul(23, 100, 64, "float32", machine, packed=True)
    x, w = placeholder((23, 64), name="a"), placeholder(plan.packed_shape, name="w")
    module = tvm.IRModule({"main": scheduled([x, w, matmul_packed(x, w, plan)], machine)})
    with made_for:
        text = tvm.compile(module, made_for, tir_pipeline=PIPELINE).mod.inspect_source("asm")
    assert {"x86:v4": "zmm", "x86": "ymm", "arm": "fmla"}[target] in text


def test_symbolic_attention_product() -> None:
    rows, columns = te.var("m", "int64"), te.var("n", "int64")
    plan = turned(plan_matmul(None, None, 16, "float32", MACHINE), b=True)
    x, y = placeholder((2, rows, 16), name="a"), placeholder((2, columns, 16), name="b")
    func = scheduled([x, y, matmul(x, y, plan)])
    for m, n in ((1, 1), (5, 33), (64, 64), (16, 100)):
        a, b = random(2, m, 16), random(2, n, 16)
        expected = a @ np.swapaxes(b, -1, -2)
        (out,) = execute(func, [a, b], [expected])
        close(out, expected)


def test_symbolic_rows_by_packed_weight() -> None:
    rows = te.var("m", "int64")
    plan = plan_matmul(None, 50, 24, "float32", MACHINE, packed=True)
    x, w = placeholder((rows, 24), name="a"), placeholder(plan.packed_shape, name="b")
    func = scheduled([x, w, matmul_packed(x, w, plan)])
    for m in (1, 3, 4, 67):
        a, b = random(m, 24), random(24, 50)
        (out,) = execute(func, [a, pack_matrix(b, plan)], [a @ b])
        close(out, a @ b)


def test_types() -> None:
    for dtype, tolerance in (("float16", 2e-3), ("float64", 1e-12), ("int32", 0.0)):
        a, b = (random(9, 20) * 5).astype(dtype), (random(20, 21) * 5).astype(dtype)
        plan = plan_matmul(9, 21, 20, dtype, Machine(32, 16, 1))
        x, y = placeholder(a.shape, dtype, "a"), placeholder(b.shape, dtype, "b")
        expected = a.astype("float64") @ b.astype("float64")
        (out,) = run_te([x, y, matmul(x, y, plan)], [a, b], [expected.astype(dtype)])
        close(out, expected, tolerance)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 100, 64), (7, 33, 5), (16, 20, 300), (None, 50, 40)])
def test_a_matrix_of_16_bits(m: int | None, n: int, k: int, kind: str) -> None:
    """Is read as it is stored, half of float32's bytes, and every other number is a float32."""
    work = MatmulWorkload(m, n, k, Dtypes("float32", kind, "float32", "float32"), packed=True)
    if kind == "float16" and {"sse2", "avx2"} & MACHINE.instructions == {"sse2"}:
        pytest.skip("x86 before AVX2 does not convert float16")
    assert Matmul().supports(work, MACHINE)
    plan = MatmulPlan.default(work, MACHINE)
    b = random(k, n).astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    x = placeholder([te.var("m", "int64") if m is None else m, k], name="a")
    w = placeholder(plan.packed_shape, kind, name="b")
    func = scheduled([x, w, matmul_packed(x, w, plan)])
    for rows in [m] if m else [1, 5, 30]:
        a = random(rows, k)
        expected = a.astype("float64") @ b.astype("float64")
        (out,) = execute(func, [a, pack_matrix(b, plan)], [expected.astype("float32")])
        close(out, expected)


def test_processors_that_do_not_convert_float16() -> None:
    work = MatmulWorkload(1, 64, 64, Dtypes("float32", "float16", "float32", "float32"), packed=True)
    old, arm = Machine(16, 16, 1, instructions=frozenset({"sse2"})), Machine(16, 32, 1)
    assert not Matmul().supports(work, old)
    assert Matmul().supports(work, arm)
    assert Matmul().supports(replace(work, dtypes=replace(work.dtypes, weight="bfloat16")), old)
    assert not Matmul().supports(replace(work, packed=False), arm)
