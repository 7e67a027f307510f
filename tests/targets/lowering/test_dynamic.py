"""One compiled function for several sizes: shape arithmetic, promises that are checked, branches, runtime shapes."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.targets.tvm.lowering.execute import Runner
from tests.targets.lowering.support import check, lowered, noise


def test_computed_shapes_stay_symbolic() -> None:
    text = """g (float[B, S, 8] x) => (float[B, 2, S, 4] z) <int64 i0 = {0}, int64 i1 = {1}, int64[1] ax = {0},
        int64[1] two = {2}, int64[1] m = {-1}> {
        s = Shape(x)  b = Gather <axis = 0> (s, i0)  n = Gather <axis = 0> (s, i1)
        b1 = Unsqueeze(b, ax)  n1 = Unsqueeze(n, ax)  t = Concat <axis = 0> (b1, n1, two, m)
        r = Reshape(x, t)  z = Transpose <perm = [0, 2, 1, 3]> (r) }"""
    result = check(text, *({"x": noise(b, s, 8)} for b, s in ((1, 1), (2, 5), (3, 7))))
    assert result.inputs[0].shape == ("B", "S", 8)
    assert result.outputs[0].shape == ("B", 2, "S", 4)


def test_equal_names_are_one_size() -> None:
    _, result = lowered("g (float[N, 3] x, float[N, 3] y) => (float[N, 3] z) { z = Add(x, y) }")
    main = result.mod["main"]
    assert main.params[0].ty.shape[0].same_as(main.params[1].ty.shape[0])
    assert not any("match_cast" in line for line in main.script().splitlines())


def test_a_promise_that_is_broken_is_an_error() -> None:
    _, result = lowered("g (float[N] x, float[M] y) => (float[K] z) { z = Add(x, y) }")
    run = Runner(result)
    np.testing.assert_array_equal(run([np.ones(3, np.float32), np.ones(3, np.float32)])[0], np.full(3, 2))
    with pytest.raises(Exception, match="mismatch"):
        run([np.ones(3, np.float32), np.ones(4, np.float32)])


def test_sizes_halved_and_doubled_again() -> None:
    text = """g (float[1, 2, H, W] x) => (float[1, 2, A, B] z) <float[4] s = {1.0, 1.0, 2.0, 2.0}> {
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)  u = Resize (p, , s)  z = Add(u, x) }"""
    check(text, *({"x": noise(1, 2, h, w)} for h, w in ((4, 6), (8, 2))))
    _, result = lowered(text)
    with pytest.raises(Exception, match="mismatch"):
        Runner(result)([noise(1, 2, 5, 6)])


def test_reshape_to_a_shape_read_at_run_time() -> None:
    text = "g (float[2, 6] x, int64[3] t) => (float[A, B, C] z) { z = Reshape(x, t) }"
    shapes = ([3, -1, 2], [0, 3, 2], [1, 1, -1])
    check(text, *({"x": noise(2, 6), "t": np.array(shape)} for shape in shapes))


def test_a_reshape_that_does_not_fit_is_an_error() -> None:
    _, result = lowered("g (float[N] x) => (float[4, M] z) <int64[2] t = {4, -1}> { z = Reshape(x, t) }")
    run = Runner(result)
    assert run([noise(8)])[0].shape == (4, 2)
    with pytest.raises(Exception, match="mismatch"):
        run([noise(9)])


BRANCHES = """g (float[N] x, bool c) => (float[M] z) <float one = {1.0}> {
    y = Add(x, one)
    r = If (c) <then_branch = t () => (float[A] a) { a = Concat <axis = 0> (x, y) },
                else_branch = e () => (float[B] b) { b = Mul(y, y) }>
    z = Neg(r) }"""


@pytest.mark.parametrize("condition", [False, True])
def test_branches_with_different_sizes(condition: bool) -> None:
    check(BRANCHES, *({"x": noise(n), "c": np.array(condition)} for n in (3, 5)))


def test_a_known_condition_needs_no_branch() -> None:
    text = """g (float[3, N] x) => (float[3, N] z) <int64 i = {0}, int64 three = {3}> {
        s = Shape(x)  n = Gather <axis = 0> (s, i)  c = Equal(n, three)
        z = If (c) <then_branch = t () => (float[3, N] a) { a = Neg(x) }, else_branch = e () => (float[3, N] b)
            { b = Abs(x) }> }"""
    _, result = lowered(text)
    assert "if " not in result.mod["main"].script()
    check(text, {"x": noise(3, 4)})


def test_attention_with_a_dynamic_mask() -> None:
    text = """g (float[B, 4, S, 8] q, float[B, 2, T, 8] k, float[B, 2, T, 8] v, bool[S, T] m) => (float[B, 4, S, 8] z)
        { z = Attention(q, k, v, m) }"""
    sets = []
    for b, s, t in ((1, 3, 5), (2, 4, 4)):
        mask = noise(s, t) > -0.5
        mask[:, 0] = True
        sets.append({"q": noise(b, 4, s, 8), "k": noise(b, 2, t, 8), "v": noise(b, 2, t, 8, seed=1), "m": mask})
    check(text, *sets)
