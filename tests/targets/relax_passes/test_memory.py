"""Memory of intermediate values: what is reported, and that a session keeps exactly what it allocated."""

from __future__ import annotations

import os
import resource

import numpy as np
import pytest

from graphopt import runtime
from graphopt.driver import compiling as compiler
from graphopt.ir.text import parse
from graphopt.runtime.manifest import Memory

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'
TENSOR = 64 * 64 * 4


def memory(text: str) -> Memory:
    return compiler.compile(parse(f"{HEADER} {text}"), passes="").manifest.memory


def session_of(text: str, passes: str | None = "") -> runtime.Session:
    artifact = compiler.compile(parse(f"{HEADER} {text}"), passes=passes)  # its folder goes away with it
    return runtime.load(artifact.folder, threads=1)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = MatMul(x, x)", Memory(0, 0, 0)),
        ("a = MatMul(x, x)  y = MatMul(a, x)", Memory(TENSOR, TENSOR, TENSOR)),
        # A chain needs two, however long it is.
        (
            "a = MatMul(x, x)  b = MatMul(a, x)  c = MatMul(b, x)  d = MatMul(c, x)  y = MatMul(d, x)",
            Memory(4 * TENSOR, 2 * TENSOR, 2 * TENSOR),
        ),
        # `a` stays until the end, and a reshaped value is where it was.
        (
            "a = MatMul(x, x)  b = MatMul(a, x)  c = MatMul(b, x)  d = Reshape(c, shape)  y = MatMul(d, a)",
            Memory(3 * TENSOR, 3 * TENSOR, 3 * TENSOR),
        ),
    ],
)
def test_a_chain_and_what_crosses_it(body, expected):
    assert memory(f"m (float[64,64] x) => (float[64,64] y) <int64[2] shape = {{64, 64}}> {{ {body} }}") == expected


def test_results_are_not_counted():
    head = "m (float[64,64] x) => (float[64,64] a, float[64,64] y)"
    body = "a = MatMul(x, x)  b = MatMul(a, x)  y = MatMul(b, a)"
    assert memory(f"{head} {{ {body} }}") == Memory(TENSOR, TENSOR, TENSOR)


def test_open_sizes_count_as_one():
    text = (
        "m (float[N,64] x, float[64,64] w) => (float[N,64] y) { a = MatMul(x, w)  b = MatMul(a, w)  y = MatMul(b, w) }"
    )
    assert memory(text) == Memory(2 * 4096, 2 * 256, 2 * 4096, ("N",))


def test_branches_count_too():
    text = """m (bool c, float[64,64] x) => (float[64,64] y) {
        a = MatMul(x, x)
        b = If(c) <then_branch = t () => (float[64,64] p) { q = MatMul(a, x)  p = MatMul(q, a) },
                   else_branch = e () => (float[64,64] r) { r = MatMul(a, a) }>
        y = MatMul(b, a)
    }"""
    found = memory(text)
    assert found.tensors == 4 * TENSOR
    assert 3 * TENSOR <= found.live <= found.allocated <= found.tensors


def test_later_runs_take_no_more_memory_from_the_system():
    """Storage between kernels and results that the caller has dropped are used again: no page is new."""
    steps = 6
    body = " ".join(f"a{i + 1} = MatMul(a{i}, w)" for i in range(steps))
    head = f"m (float[4096,256] a0, float[256,256] w) => (float[4096,256] a{steps})"
    session = session_of(f"{head} {{ {body} }}")
    given = {"a0": np.ones((4096, 256), np.float32), "w": np.eye(256, dtype=np.float32)}
    for _ in range(3):
        session.run(given)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        session.run(given)
    pages_of_one_tensor = 4096 * 256 * 4 // resource.getpagesize()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < pages_of_one_tensor


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_many_sizes_do_not_add_up():
    """Memory is kept for some sizes, not for every one that was ever seen: 8 MB between kernels for each of 60."""
    text = "m (float[N,8] x, float[8,1024] w, float[1024,8] v) => (float[N,8] y) { a = MatMul(x, w)  y = MatMul(a, v) }"
    session = session_of(text)
    w, v = np.ones((8, 1024), np.float32), np.ones((1024, 8), np.float32)
    before = resident_bytes()
    for rows in range(2000, 2060):
        y = session.run({"x": np.full((rows, 8), 0.5, np.float32), "w": w, "v": v})["y"]
        assert y.shape == (rows, 8)
        assert (y == 4096).all()
    assert resident_bytes() - before < 30 * 2060 * 1024 * 4


@pytest.mark.parametrize("dim", ["N", "5"])
def test_batches(dim):
    """More than one row of the batch at a time, whether its size is fixed or open, gives what one at a time gives."""
    head = f"m (float[{dim},3,9,9] x) => (float[{dim},4,9,9] y, float[{dim},4] z)"
    body = "c = Conv<pads=[1,1,1,1]>(x, w)  y = Relu(c)  g = GlobalAveragePool(y)  z = Flatten(g)"
    weights = ",".join(map(str, np.linspace(-1, 1, 4 * 3 * 3 * 3, dtype=np.float32)))
    text = f"{head} <float[4,3,3,3] w = {{{weights}}}> {{ {body} }}"
    batched, single = session_of(text, None), session_of(text.replace(f"[{dim},", "[1,"), None)
    x = np.random.default_rng(0).standard_normal((5, 3, 9, 9)).astype(np.float32)
    for rows in (5, 2, 1, 5) if dim == "N" else (5, 5):
        outputs = batched.run({"x": x[:rows]})
        for row in range(rows):
            for name, array in single.run({"x": x[row : row + 1]}).items():
                np.testing.assert_allclose(outputs[name][row : row + 1], array, rtol=1e-5, atol=1e-5)
