"""Products with constant matrices of few bits, by the machine's kernels, against ONNX Runtime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from graphopt.ir import Model
from graphopt.targets.tvm.lowering.lower import lower
from tests.helpers import model_of
from tests.targets.lowering.support import check, check_for_machine, expected, noise, run_model_for_machine
from tests.targets.schedule.support import MACHINE

HEADER = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'
TYPES = {"int4": ml_dtypes.int4, "uint4": ml_dtypes.uint4, "int8": np.int8, "uint8": np.uint8}


def integers(kind: str, *shape: int) -> np.ndarray:
    low, high = int(ml_dtypes.iinfo(TYPES[kind]).min), int(ml_dtypes.iinfo(TYPES[kind]).max)
    return np.random.default_rng(3).integers(low, high + 1, shape).astype(TYPES[kind])


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("rows", [1, 40])
def test_matmul_by_blocks(rows: int, kind: str, zeros: bool) -> None:
    k, n, block = 96, 70, 32
    given = {"w": integers(kind, k, n), "s": np.abs(noise(k // block, n)) / 8}
    if zeros:
        given["z"] = integers(kind, k // block, n)
    text = f"""{HEADER} g (float[2,{rows},{k}] x) => (float[2,{rows},{n}] y) {{
        d = DequantizeLinear <axis = 0, block_size = {block}> (w, s{", z" if zeros else ""})  y = MatMul(x, d) }}"""
    check_for_machine(text, {"x": noise(2, rows, k)}, weights=given)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("scale", ["tensor", "columns", "rows", "blocks"])
def test_gemm_in_both_orders(scale: str, transposed: int) -> None:
    """Scales of rows belong to no group of a column: the matrix is read as floats."""
    k, n = 64, 33
    shape = (n, k) if transposed else (k, n)
    axis = {"tensor": 0, "columns": 1 - transposed, "rows": transposed, "blocks": transposed}[scale]
    sizes = {"tensor": (), "columns": (n,), "rows": (k,), "blocks": (n, 4) if transposed else (4, n)}[scale]
    given = {"w": integers("int4", *shape), "s": np.asarray(np.abs(noise(*sizes)) / 8, np.float32), "b": noise(n)}
    blocks = ", block_size = 16" if scale == "blocks" else ""
    text = f"""{HEADER} g (float[N,{k}] x) => (float[N,{n}] y) {{
        d = DequantizeLinear <axis = {axis}{blocks}> (w, s)  y = Gemm <transB = {transposed}> (x, d, b) }}"""
    check_for_machine(text, {"x": noise(3, k)}, {"x": noise(50, k)}, weights=given)


@pytest.mark.parametrize("points", ["", ", z", ", f"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [1, 3, 33])
def test_mat_mul_n_bits(rows: int, bits: int, points: str) -> None:
    k, n, block = 80, 50, 16
    groups = k // block
    random = np.random.default_rng(4)
    given = {
        "w": random.integers(0, 256, (n, groups, block * bits // 8)).astype(np.uint8),
        "s": np.abs(noise(n, groups)) / 8,
        "z": random.integers(0, 256, (n, -(-groups * bits // 8))).astype(np.uint8),
        "f": random.integers(0, 16, (n, groups)).astype(np.float32),
        "b": noise(n),
    }
    if bits == 8 and points == ", f":
        pytest.skip("ONNX Runtime has no floats as zero points of 8 bits")
    attributes = f"K = {k}, N = {n}, bits = {bits}, block_size = {block}"
    text = f"""{HEADER} g (float[2,M,{k}] x) => (float[2,M,{n}] y) {{
        y = com.microsoft.MatMulNBits <{attributes}> (x, w, s{points or ", "}, , b) }}"""
    used = {name: array for name, array in given.items() if name in f"w s b{points}"}
    model = model_of(text, used)
    x = {"x": noise(2, rows, k)}
    ((found,),), (wanted,) = run_model_for_machine(model, x), expected(model, x)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(("bits", "zeros"), [(4, False), (4, True), (8, False), (8, True)])
@pytest.mark.parametrize(
    ("rows", "k", "n", "block"),
    [(1, 130, 70, 32), (2, 100, 1, 16), (3, 200, 37, 64), (33, 300, 50, 128), (140, 256, 16, 256)],
)
def test_rounded_data_are_as_near_as_those_of_onnxruntime(
    rows: int, k: int, n: int, block: int, bits: int, zeros: bool
) -> None:
    groups = -(-k // block)
    random = np.random.default_rng(k)
    given = {
        "w": random.integers(0, 256, (n, groups, block * bits // 8)).astype(np.uint8),
        "s": np.abs(noise(n, groups)) / 8,
    }
    if zeros:
        given["z"] = random.integers(0, 256, (n, -(-groups * bits // 8))).astype(np.uint8)
    x = {"x": noise(rows, k)}

    def model(level: int) -> Model:
        attributes = f"K = {k}, N = {n}, bits = {bits}, block_size = {block}, accuracy_level = {level}"
        text = f"""{HEADER} g (float[M,{k}] x) => (float[M,{n}] y) {{
            y = com.microsoft.MatMulNBits <{attributes}> (x, w, s{", z" if zeros else ""}) }}"""
        return model_of(text, given)

    (exact,), (theirs,) = expected(model(0), x), expected(model(4), x)
    ((found,),) = run_model_for_machine(model(4), x)
    error, most = (np.sqrt(np.mean(np.square(y - exact))) for y in (found, theirs))
    assert error <= 1.05 * most + 1e-5 * np.abs(exact).max()


def test_a_matrix_of_four_bits_is_stored_as_such() -> None:
    text = f"""{HEADER} g (float[1,256] x) => (float[1,256] y) {{
        d = DequantizeLinear <axis = 0, block_size = 64> (w, s)  y = MatMul(x, d) }}"""
    model = model_of(text, {"w": integers("int4", 256, 256), "s": np.abs(noise(4, 256))})
    made = lower(model, MACHINE)
    assert sum(operand.array.nbytes for _, operand in made.params) == 256 * 128 + 4 * 256 * 4


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize(("rows", "transposed", "size"), [(1, 0, 2), (3, 1, 2), (None, 0, 2), (40, 0, 4)])
def test_a_matrix_of_16_bits_that_is_cast(rows: int | None, transposed: int, size: int, kind: str) -> None:
    """Is stored as such where few rows are multiplied."""
    k, n = 64, 48
    weight = noise(n, k) if transposed else noise(k, n)
    given = {"w": weight.astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind), "b": noise(n)}
    text = f"""{HEADER} g (float[{rows or "M"},{k}] x) => (float[{rows or "M"},{n}] y) {{
        d = Cast<to = 1>(w)  y = Gemm<transB = {transposed}>(x, d, b) }}"""
    check_for_machine(text, {"x": noise(rows or 5, k)}, weights=given)
    made = lower(model_of(text, given), MACHINE)
    largest = max(operand.array.nbytes for _, operand in made.params)
    assert k * n * size <= largest < 1.5 * k * n * size  # panels may have empty columns


def test_a_convolution_reads_floats() -> None:
    given = {"w": integers("int8", 20, 3, 3, 3), "s": np.abs(noise(20)) / 8, "z": integers("int8", 20)}
    text = (
        """g (float[1,3,9,7] x) => (float[1,20,7,5] y) { d = DequantizeLinear <axis = 0> (w, s, z)  y = Conv(x, d) }"""
    )
    check(text, {"x": noise(1, 3, 9, 7)}, weights=given)
