"""Values with several reads: inlined if that is cheap, stored if code would grow without bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tvm import te, tirx

from tests.targets.schedule.support import placeholder, run_te, scheduled


def gelus(x: te.Tensor, count: int) -> te.Tensor:
    """`count` times x * erf(x), one after the other: each reads its input twice."""
    for _ in range(count):
        x = gelu(x)
    return x


def gelu(x: te.Tensor) -> te.Tensor:
    return te.compute(x.shape, lambda *i: x(*i) * tirx.erf(x(*i)), name="gelu")


def size(count: int) -> int:
    x = placeholder([7, 40])
    return len(scheduled([x, gelus(x, count)]).script())


def test_a_chain_grows_with_its_length_only() -> None:
    assert size(8) <= 8 * size(1)


@pytest.mark.parametrize("shape", [(7, 40), (3, 5), (1, 16)])
def test_a_long_chain_computes_what_it_says(shape: tuple[int, int]) -> None:
    x = placeholder(shape)
    given = np.random.default_rng(0).uniform(-3, 3, shape).astype(np.float32)
    (found,) = run_te([x, gelus(x, 8)], [given], [given])
    expected = given.astype(np.float64)
    for _ in range(8):
        expected = expected * np.vectorize(math.erf)(expected)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_cheap_value_is_inlined_though_it_is_read_twice() -> None:
    x = placeholder([4, 32])
    moved = te.compute(x.shape, lambda *i: x(*i) + tirx.const(1, "float32"), name="moved")
    square = te.compute(x.shape, lambda *i: moved(*i) * moved(*i), name="square")
    assert "alloc_buffer" not in scheduled([x, square]).script()
