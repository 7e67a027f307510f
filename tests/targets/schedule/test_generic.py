"""The generic schedule against numpy: remainders, symbolic sizes, odd types, NaN; and that it does vectorize."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import te, tirx, topi

from graphopt.hardware.target import Target
from graphopt.targets.tvm.codegen.build import tvm_target
from graphopt.targets.tvm.machine import Machine, machine_for, machine_of
from tests.targets.schedule.support import MACHINE, execute, placeholder, run_te, scheduled


def data(*shape: int, dtype: str = "float32") -> np.ndarray:
    return (np.random.default_rng(7).standard_normal(shape) * 5).astype(dtype)


def compare(out: np.ndarray, expected: np.ndarray, tolerance: float = 2e-6) -> None:
    assert out.shape == expected.shape
    scale = np.nanmax(np.abs(expected.astype("float64")), initial=1e-30)
    np.testing.assert_allclose(out.astype("float64"), expected.astype("float64"), rtol=0, atol=tolerance * scale)


SHAPES = [(1,), (7,), (16,), (1003,), (3, 5), (64, 17), (2, 3, 4, 5), (1, 8, 9, 33), (4, 1, 1, 40), (0, 5), (5, 0)]


@pytest.mark.parametrize("shape", SHAPES)
def test_elementwise_and_broadcast(shape: tuple[int, ...]) -> None:
    x, b = placeholder(shape, name="x"), placeholder((shape[-1],), name="b")
    array, bias = data(*shape), data(shape[-1])
    expected = np.maximum(array + bias, 0)
    (out,) = run_te([x, b, topi.nn.relu(topi.add(x, b))], [array, bias], [expected])
    compare(out, expected)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "int64", "uint8", "bool"])
def test_types(dtype: str) -> None:
    x, y = placeholder((5, 37), dtype, "x"), placeholder((5, 37), dtype, "y")
    a, b = data(5, 37, dtype=dtype), data(5, 37, dtype=dtype)[::-1]
    b = np.ascontiguousarray(b)
    if dtype == "bool":
        (out,) = run_te([x, y, topi.logical_and(x, y)], [a, b], [a])
        assert (out == (a & b)).all()
    else:
        (out,) = run_te([x, y, topi.add(x, y)], [a, b], [a])
        compare(out, a + b, 1e-3 if dtype == "float16" else 1e-12)


@pytest.mark.parametrize("axes", [(0, 2, 1), (2, 1, 0), (1, 0, 2)])
def test_transposes(axes: tuple[int, ...]) -> None:
    array = data(5, 18, 33)
    expected = np.ascontiguousarray(array.transpose(axes))
    x = placeholder(array.shape)
    (out,) = run_te([x, topi.transpose(x, axes)], [array], [expected])
    compare(out, expected)


def test_concatenation_of_uneven_parts() -> None:
    parts = [data(2, n, 7) for n in (3, 1, 20)]
    tensors = [placeholder(p.shape, name=f"x{i}") for i, p in enumerate(parts)]
    expected = np.concatenate(parts, 1)
    (out,) = run_te([*tensors, topi.concatenate(tensors, 1)], parts, [expected])
    compare(out, expected)


REDUCTIONS: list[tuple[Callable[..., te.Tensor], Callable[..., np.ndarray]]] = [
    (topi.sum, np.sum),
    (topi.max, np.max),
    (topi.min, np.min),
    (topi.prod, np.prod),
]


@pytest.mark.parametrize("axis", [(0,), (1,), (2,), (1, 2), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("shape", [(3, 5, 70), (1, 1, 1), (2, 33, 4), (6, 16, 1000)])
def test_sums(shape: tuple[int, ...], axis: tuple[int, ...]) -> None:
    array = data(*shape)
    x = placeholder(shape)
    expected = np.asarray(array.astype("float64").sum(axis), "float32")
    (out,) = run_te([x, topi.sum(x, axis)], [array], [expected])
    compare(out, expected, 2e-5)


@pytest.mark.parametrize(("ours", "numpys"), REDUCTIONS)
def test_other_reductions(ours: Callable[..., te.Tensor], numpys: Callable[..., np.ndarray]) -> None:
    array = data(4, 50) / 5
    x = placeholder(array.shape)
    expected = numpys(array, axis=1)
    (out,) = run_te([x, ours(x, 1)], [array], [expected])
    compare(out, expected, 2e-5)


def test_argmax() -> None:
    array = data(9, 40)
    x = placeholder(array.shape)
    expected = array.argmax(1)
    (out,) = run_te([x, topi.argmax(x, 1)], [array], [expected])
    assert (out == expected).all()


def softmax(array: np.ndarray, axis: int) -> np.ndarray:
    shifted = np.exp(array.astype("float64") - array.max(axis, keepdims=True))
    return (shifted / shifted.sum(axis, keepdims=True)).astype("float32")


@pytest.mark.parametrize("shape", [(1, 1), (5, 10), (8, 197), (3, 4, 64), (1, 1000)])
@pytest.mark.parametrize("axis", [-1, 1])
def test_softmax(shape: tuple[int, ...], axis: int) -> None:
    array = data(*shape)
    x = placeholder(shape)
    expected = softmax(array, axis)
    (out,) = run_te([x, topi.nn.softmax(x, axis)], [array], [expected])
    compare(out, expected)


def test_symbolic_rows_and_columns() -> None:
    n, m = te.var("n", "int64"), te.var("m", "int64")
    x = placeholder((n, m))
    func = scheduled([x, topi.nn.softmax(topi.add(x, x), -1)])
    for shape in ((1, 1), (3, 15), (8, 64), (5, 101)):
        array = data(*shape)
        expected = softmax(array * 2, -1)
        (out,) = execute(func, [array], [expected])
        compare(out, expected)


def test_tests_on_data_do_not_move_loop_bounds() -> None:
    """A one-hot: comparing indices from memory with the loop's own index must not decide how far the loop runs."""
    n = te.var("n", "int64")
    index, width = placeholder((3,), "int64", "index"), placeholder((n,), name="row")
    hot = te.compute(
        (tirx.IntImm("int64", 3), n), lambda i, j: tirx.Select(index[i] == j, width[j], tirx.const(0, "float32"))
    )
    func = scheduled([index, width, hot])
    for size in (1, 10, 16, 300):
        where, row = np.array([0, size - 1, size * 7]), data(size)
        expected = (where[:, None] == np.arange(size)) * row
        (out,) = execute(func, [where, row], [expected.astype("float32")])
        compare(out, expected)


def test_nan_passes_through_max_and_min() -> None:
    array = data(6, 33)
    array[2, 5] = array[4, 32] = np.nan
    x = placeholder(array.shape)
    for tensor, expected in (
        (topi.nn.relu(x), np.maximum(array, 0)),
        (topi.clip(x, -1, 1), np.clip(array, -1, 1)),
        (topi.max(x, 1), array.max(1)),
        (topi.min(x, 0), array.min(0)),
    ):
        (out,) = run_te([x, tensor], [array], [expected])
        np.testing.assert_array_equal(out, expected)


def applied(function: Callable[..., object], tensor: te.Tensor) -> te.Tensor:
    return te.compute(tensor.shape, lambda i: function(tensor[i]))


def test_elementary_functions() -> None:
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 88.7, 88.8, -87.4, 1e-40, 3e38, -3e38, 0.625, 0.927734375]
    x = np.concatenate([np.linspace(-100, 100, 4001), np.linspace(-1.5, 1.5, 2001), special]).astype("float32")
    exact = x.astype("float64")
    with np.errstate(all="ignore"):
        wanted = {
            tirx.exp: np.exp(exact),
            tirx.tanh: np.tanh(exact),
            tirx.sigmoid: 1 / (1 + np.exp(-exact)),
            tirx.log: np.log(exact),
            tirx.erf: np.vectorize(math.erf)(exact),
            tirx.sinh: np.sinh(exact),
            tirx.cosh: np.cosh(exact),
        }
        tensor = placeholder(x.shape)
        for function, expected in wanted.items():
            (out,) = run_te([tensor, applied(function, tensor)], [x], [x])
            single = expected.astype("float32")
            normal = np.isfinite(single) & (np.abs(single) > 1.2e-38)
            error = np.abs(out[normal] - expected[normal]) / np.abs(expected[normal])
            assert error.max() < 1e-6, function.__name__
            assert (np.isnan(out) == np.isnan(single)).all(), function.__name__
            rest = ~normal & ~np.isnan(single)
            np.testing.assert_allclose(out[rest], single[rest], rtol=0, atol=1e-37, err_msg=function.__name__)


def kinds(func: tirx.PrimFunc) -> set[int]:
    found: set[int] = set()
    tvm_ffi.structural_walk(func.body, (tirx.For, lambda loop: found.add(int(loop.kind))))
    return found


@pytest.mark.parametrize("shape", [(64, 300), (1, 64, 55, 55), (100000,), (3, 224, 226)])
def test_large_functions_run_in_parallel_and_in_vectors(shape: tuple[int, ...]) -> None:
    x = placeholder(shape)
    for result in (topi.nn.relu(x), topi.nn.softmax(x, -1) if len(shape) > 1 else topi.exp(x), topi.sum(x, -1)):
        found = kinds(scheduled([x, result]))
        assert {tirx.ForKind.PARALLEL, tirx.ForKind.VECTORIZED} <= found or result.shape == ()


@pytest.mark.parametrize(
    ("shape", "lanes"), [((1, 8, 14, 14, 16), 32), ((8, 7, 7, 16), 16), ((8, 28, 28, 16), 64), ((8, 49, 49, 3), 64)]
)
def test_vectors_of_bytes_stay_in_rows(shape: tuple[int, ...], lanes: int) -> None:
    """Rows that are no multiple of a vector would become single accesses; rows of odd sizes do not matter."""
    x = placeholder(shape)
    func = scheduled([x, topi.cast(x, "uint8")], Machine(64, 32, 2))
    found: set[int] = set()
    tvm_ffi.structural_walk(
        func.body, (tirx.For, lambda f: found.add(int(f.extent)) if f.kind == tirx.ForKind.VECTORIZED else None)
    )
    assert found == {lanes}


def test_tiny_functions_start_no_threads() -> None:
    x = placeholder((4, 8))
    assert tirx.ForKind.PARALLEL not in kinds(scheduled([x, topi.nn.relu(x)]))


def test_schedules_are_deterministic() -> None:
    def text() -> str:
        x = placeholder((8, 300))
        return str(scheduled([x, topi.nn.softmax(x, -1)]).script())

    assert text() == text()


AVX2 = frozenset({"sse2", "ssse3", "avx2"})
AVX512 = AVX2 | {"avx512bw"}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({"kind": "llvm", "mcpu": "x86-64-v3"}, Machine(32, 16, 1, instructions=AVX2)),
        (
            {"kind": "llvm", "mcpu": "skylake-avx512", "num-cores": 8},
            Machine(64, 32, 8, instructions=AVX512),
        ),
        (
            {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76", "num-cores": 4},
            Machine(16, 32, 4, instructions=frozenset({"fp16", "dotprod"})),
        ),
        (
            {"kind": "llvm", "mcpu": "sapphirerapids"},
            Machine(64, 32, 1, instructions=AVX512 | {"vnni", "avx-vnni", "bf16", "fp16"}),
        ),
        (
            {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64"},
            Machine(16, 16, 1, instructions=frozenset({"sse2"})),
        ),
    ],
)
def test_machines(target: dict[str, object], expected: Machine) -> None:
    assert machine_of(tvm.target.Target(target)) == expected


@pytest.mark.parametrize(
    ("name", "instructions"),
    [
        ("x86", AVX2),
        ("x86:alderlake", AVX2 | {"avx-vnni"}),
        ("x86:cascadelake", AVX512 | {"vnni"}),
        ("x86:znver4", AVX512 | {"vnni", "bf16"}),
        ("arm", set()),
        ("arm:neoverse-n2", {"fp16", "dotprod", "bf16", "i8mm"}),
    ],
)
def test_a_machine_has_the_instructions_of_its_target(name: str, instructions: set[str]) -> None:
    target = Target.load(name)
    assert machine_for(target).instructions == instructions
    assert machine_of(tvm_target(target)).instructions >= instructions, "LLVM knows of more from the processor's name"


@pytest.mark.parametrize(
    ("dtype", "lanes"), [("float32", 8), ("float16", 16), ("int8", 32), ("bool", 32), ("float64", 4)]
)
def test_lanes_are_those_of_the_element_type(dtype: str, lanes: int) -> None:
    assert Machine(32, 16, 1).lanes(dtype) == lanes


@pytest.mark.parametrize("kind", ["float32", "float64", "int32", "int8"])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((13, 70), (0,)),
        ((1, 40), (0,)),
        ((8, 33), (0,)),
        ((64, 2500), (0,)),
        ((3, 13, 70), (1,)),
        ((5, 3, 4, 100), (1, 2)),
        ((5, 3, 4, 100), (0, 2)),
        ((2, 300, 1, 64), (1,)),
    ],
)
def test_reductions_of_columns(shape: tuple[int, ...], axes: tuple[int, ...], kind: str) -> None:
    array = np.random.default_rng(3).integers(-9, 10, shape).astype(kind)
    x = placeholder(shape, kind)
    for ours, numpys in ((topi.sum, np.sum), (topi.max, np.max)):
        expected = numpys(array, axes).astype(kind)
        (out,) = run_te([x, ours(x, axes)], [array], [expected])
        np.testing.assert_array_equal(out, expected)


def test_reductions_of_columns_of_unknown_sizes() -> None:
    n, m = tirx.Var("n", "int64"), tirx.Var("m", "int64")
    x = placeholder((3, n, m))
    total = topi.sum(x, 1, keepdims=True)
    func = scheduled([x, topi.subtract(x, topi.divide(total, tirx.const(4, "float32")))])
    for rows, columns in ((1, 1), (8, 256), (9, 257), (20, 31), (5, 700), (0, 9)):
        array = np.random.default_rng(3).integers(-9, 10, (3, rows, columns)).astype("float32")
        expected = array - array.sum(1, keepdims=True) / 4
        (out,) = execute(func, [array], [expected])
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("shape", [(8, 30, 100), (5, 9, 64), (4, 7, 33), (16, 3, 5)])
def test_rows_that_are_normalized_over_columns(shape: tuple[int, ...]) -> None:
    """A reduction of columns inside rows that several blocks share, and its epilogue."""
    array = data(*shape)
    x = placeholder(shape)
    count = tirx.const(shape[1], "float32")
    mean = topi.divide(topi.sum(x, 1, keepdims=True), count)
    distance = topi.subtract(x, mean)
    variance = topi.divide(topi.sum(topi.multiply(distance, distance), 1, keepdims=True), count)
    wide = array.astype("float64")
    expected = ((wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1)).astype("float32")
    result = topi.divide(distance, topi.sqrt(topi.add(variance, tirx.const(1, "float32"))))
    (out,) = run_te([x, result], [array], [expected])
    compare(out, expected, 1e-5)
    (out,) = run_te([x, mean], [array], [wide.mean(1, keepdims=True).astype("float32")])
    compare(out, wide.mean(1, keepdims=True), 1e-5)


def row_softmax(x: te.Tensor) -> te.Tensor:
    """Softmax over the last axis whose maximum and sum keep that axis, as converters write it."""
    kept = [*x.shape[:-1], tirx.IntImm("int64", 1)]
    first, second = (te.reduce_axis((0, x.shape[-1]), name) for name in "kl")
    top = te.compute(kept, lambda *i: te.max(x(*i[:-1], first), axis=[first]), name="top")
    exp = te.compute(x.shape, lambda *i: tirx.exp(x(*i) - top(*i[:-1], 0)), name="exp")
    total = te.compute(kept, lambda *i: te.sum(exp(*i[:-1], second), axis=[second]), name="total")
    return te.compute(x.shape, lambda *i: exp(*i) / total(*i[:-1], 0), name="softmax")


@pytest.mark.parametrize("width", [1, 3, 8, 15, 16, 17, 24, 32, 48, 64, 100, 197, 1000])
@pytest.mark.parametrize("rows", [(1, 1), (2, 3), (5, 40)])
def test_rows_that_several_blocks_share(rows: tuple[int, int], width: int) -> None:
    array = data(*rows, width)
    x = placeholder(array.shape)
    func = scheduled([x, row_softmax(x)])
    lanes = MACHINE.lanes("float32")
    by_rows = rows != (1, 1) and (width % lanes == 0 or width < lanes)
    assert width == 1 or str(func.attrs["graphopt.schedule"]) == ("rows" if by_rows else "generic")
    (out,) = execute(func, [array], [array])
    compare(out, softmax(array, -1))


def test_rows_with_nan() -> None:
    array = data(6, 64)
    array[2, 37], array[4] = np.nan, -np.inf
    x = placeholder(array.shape)
    (out,) = execute(scheduled([x, row_softmax(x)]), [array], [array])
    expected = np.isnan(array).any(1) | (array == -np.inf).all(1)
    np.testing.assert_array_equal(np.isnan(out).all(1), expected)
    np.testing.assert_array_equal(np.isnan(out).any(1), expected)


@pytest.mark.parametrize("axes", [(1, 2, 3), (1, 3, 4), (2, 3), (3, 4), (1, 2, 3, 4)])
def test_row_reductions_with_axes_of_size_one(axes: tuple[int, ...], caplog: pytest.LogCaptureFixture) -> None:
    array = data(16, 1, 1, 83, 1, dtype="float64")
    n = tirx.Var("n", "int64")
    x = placeholder((16, 1, 1, n, 1), "float64")
    expected = array.sum(axes)
    (out,) = run_te([x, topi.sum(x, axes)], [array], [expected])
    compare(out, expected, 1e-12)
    assert not caplog.records, "a schedule failed"


def test_a_schedule_that_fails_makes_room_for_a_simpler_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise IndexError("out of range")

    for part in ("rows._by_rows", "generic.reduce_row", "generic.map_block", "lrn_cpu.schedule"):
        place = part.replace("lrn_cpu", "schedule.lrn_cpu")
        monkeypatch.setattr(f"graphopt.targets.tvm.cpu.{place}", fails)
    array = data(5, 64)
    x = placeholder(array.shape)
    expected = softmax(array, 1)
    (out,) = run_te([x, topi.nn.softmax(x, 1)], [array], [expected])
    compare(out, expected, 1e-5)
    assert "IndexError: out of range" in caplog.text
