"""Memory of the values between kernels: what is reported, and that a session keeps what it took."""

from __future__ import annotations

import resource

import numpy as np
import pytest

from graphopt import compiler, runtime
from graphopt.artifact import Memory
from graphopt.ir.text import parse

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'
TENSOR = 64 * 64 * 4


def memory(text: str) -> Memory:
    return compiler.compile(parse(f"{HEADER} {text}"), passes="").manifest.memory


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
    assert memory(text) == Memory(2 * 256, 2 * 256, 2 * 4096, ("N",))


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
    artifact = compiler.compile(parse(f"{HEADER} {head} {{ {body} }}"), passes="")
    session = runtime.load(artifact.folder, threads=1)
    given = {"a0": np.ones((4096, 256), np.float32), "w": np.eye(256, dtype=np.float32)}
    for _ in range(3):
        session.run(given)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        session.run(given)
    pages_of_one_tensor = 4096 * 256 * 4 // resource.getpagesize()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < pages_of_one_tensor
