"""Sizes of zero and one, fixed or found out when the code runs."""

from __future__ import annotations

import numpy as np
import pytest

from tests.targets.lowering.support import check_for_machine

REDUCTIONS = [
    f"Reduce{kind}" for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
]


def test_reductions_over_nothing() -> None:
    """Along sizes that turn out to be 0 when the code runs, in every combination of axes."""
    names = [(f"y{i}{k}", op, k) for i, op in enumerate(REDUCTIONS) for k in range(3)]
    outputs = ", ".join(f"float[] {name}" for name, _, _ in names)
    body = " ".join(f"{name} = {op}<keepdims = {k % 2}>(x, a{k})" for name, op, k in names)
    text = f"""<ir_version: 9, opset_import: ["" : 18]>
        g (float[B,W] x) => ({outputs}) <int64[1] a0 = {{0}}, int64[1] a1 = {{1}}, int64[2] a2 = {{0, 1}}>
        {{ {body} }}"""
    rng = np.random.default_rng(4)
    sizes = [(0, 3), (3, 0), (0, 0), (2, 3), (5, 40), (1, 1)]
    check_for_machine(text, *({"x": rng.random(size).astype(np.float32) + 0.5} for size in sizes))


def test_reductions_over_a_size_that_is_fixed_to_nothing() -> None:
    ops = [op for op in REDUCTIONS if op not in ("ReduceMax", "ReduceMin")]  # those ONNX Runtime refuses
    outputs = ", ".join(f"float[3] y{i}" for i in range(len(ops)))
    body = " ".join(f"y{i} = {op}<keepdims = 0>(x, a)" for i, op in enumerate(ops))
    text = f"""<ir_version: 9, opset_import: ["" : 18]>
        g (float[3,0] x) => ({outputs}) <int64[1] a = {{1}}> {{ {body} }}"""
    check_for_machine(text, {"x": np.zeros((3, 0), np.float32)})


@pytest.mark.parametrize("kind", ["float", "double", "int32", "int64"])
@pytest.mark.parametrize(("columns", "inner"), [("16", "K"), ("16", "0"), ("N", "K")])
def test_products_over_nothing(kind: str, columns: str, inner: str) -> None:
    """A sum of no terms is 0, whether the size is open or not."""
    dtype = {"float": np.float32, "double": np.float64}.get(kind, kind)
    text = f"""<ir_version: 9, opset_import: ["" : 18]>
        g ({kind}[3,{inner}] a, {kind}[{inner},{columns}] b) => ({kind}[3,{columns}] y, {kind}[3,{columns}] z)
        {{ y = MatMul(a, b)  z = Einsum<equation = "ij,jk->ik">(a, b) }}"""
    feeds = [{"a": np.ones((3, k), dtype), "b": np.ones((k, 16), dtype)} for k in ((0,) if inner == "0" else (0, 5))]
    check_for_machine(text, *feeds)


def test_a_gemm_over_nothing_is_its_bias() -> None:
    text = """<ir_version: 9, opset_import: ["" : 18]>
        g (double[3,0] a, double[0,16] b, double[16] c) => (double[3,16] y) { y = Gemm(a, b, c) }"""
    check_for_machine(text, {"a": np.zeros((3, 0)), "b": np.zeros((0, 16)), "c": np.arange(16.0)})


def test_a_reshape_to_no_elements() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[3,N,M] x) => (float[1,0] y) <int64[2] shape = {1, 0}> { y = Reshape<allowzero = 1>(x, shape) }"""
    check_for_machine(text, {"x": np.zeros((3, 0, 2), np.float32)})


def test_a_gemm_whose_product_is_taken_zero_times() -> None:
    """Zero times NaN or an infinity is NaN; a bias that counts zero times is not read."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2,3] a, float[3,4] b, float[4] c) => (float[2,4] y, float[2,4] z)
        { y = Gemm<alpha = 0.0>(a, b, c)  z = Gemm<alpha = 0.0, beta = 0.0>(a, b, c) }"""
    a, b = np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)
    a[0, 1], b[2, 3] = np.inf, np.nan
    check_for_machine(text, {"a": a, "b": b, "c": np.array([1, np.nan, 3, 4], np.float32)})


def test_sizes_and_numbers_read_when_the_code_runs_together() -> None:
    """A range from a number to where it ends, and a size as a number, repeated as often as another says."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (int64 first, float[S] w, int64[1] often) => (int64[R] y, int64[Q] z) <int64 last = {5}, int64 one = {1}>
        { r = Range(first, last, one)  y = Neg(r)  s = Shape(w)  e = Expand(s, often)  z = Neg(e) }"""
    feeds = [(1, 4, 3), (5, 1, 1), (-2, 0, 0)]
    check_for_machine(
        text, *({"first": np.array(a), "w": np.zeros(b, np.float32), "often": np.array([c])} for a, b, c in feeds)
    )


@pytest.mark.parametrize("sizes", ["N,3", "0,3", "2,M"])
def test_positions_of_no_elements(sizes: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[{sizes}] x) => (int64[2,Z] y) {{ y = NonZero(x) }}"""
    check_for_machine(text, {"x": np.zeros((2, 0) if "M" in sizes else (0, 3), np.float32)})


def test_a_scale_that_turns_out_to_be_one_number() -> None:
    text = """<ir_version: 10, opset_import: ["" : 23]> g (float[4,7] x, float[S] s) => (float[4,7] y, float[4,7] z)
        { y = LayerNormalization(x, s)  z = RMSNormalization(x, s) }"""
    x = np.arange(28, dtype=np.float32).reshape(4, 7)
    check_for_machine(text, *({"x": x, "s": np.arange(1, n + 1, dtype=np.float32)} for n in (1, 7)))


def test_open_sizes_that_broadcast_when_the_code_runs() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[A,M] x, float[C,K] y, bool[D,1] m) => (float[p,q] s, float[r,t] w, float[u,v] chain)
        { s = Add(x, y)  w = Where(m, x, y)  d = Mul(s, y)  chain = Sub(d, x) }"""
    rng = np.random.default_rng(6)

    def given(x: tuple[int, ...], y: tuple[int, ...], m: int) -> dict[str, np.ndarray]:
        arrays = {"x": rng.standard_normal(x).astype(np.float32), "y": rng.standard_normal(y).astype(np.float32)}
        return {**arrays, "m": rng.random((m, 1)) < 0.5}

    shapes = [((3, 20), (3, 20), 3), ((1, 20), (3, 20), 1), ((3, 20), (1, 20), 3), ((3, 1), (3, 20), 3)]
    shapes += [
        ((3, 20), (3, 1), 1),
        ((1, 1), (4, 33), 4),
        ((4, 33), (1, 1), 1),
        ((1, 1), (1, 1), 1),
        ((1, 5), (0, 5), 1),
    ]
    check_for_machine(text, *(given(*shape) for shape in shapes), tolerance=0)


def test_open_batch_sizes_of_products_that_broadcast_when_the_code_runs() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[A,H,5,8] x, float[B,1,8,3] y) => (float[p,q,5,3] z) { z = MatMul(x, y) }"""
    rng = np.random.default_rng(7)
    batches = [((2, 3), 2), ((1, 3), 4), ((4, 1), 1), ((1, 1), 1)]
    feeds = [
        {"x": rng.standard_normal((*left, 5, 8)), "y": rng.standard_normal((right, 1, 8, 3))} for left, right in batches
    ]
    check_for_machine(text, *({name: array.astype(np.float32) for name, array in feed.items()} for feed in feeds))


def test_a_normalization_of_no_channels() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,0,2] x, float[M] s) => (float[A,B,C] y, float[D,E,F] z) <float[0] b = {}> {
          y = InstanceNormalization(x, b, s)  w = Abs(x)  z = InstanceNormalization(w, s, b) }"""
    check_for_machine(text, {"x": np.zeros((3, 0, 2), np.float32), "s": np.zeros(0, np.float32)})
