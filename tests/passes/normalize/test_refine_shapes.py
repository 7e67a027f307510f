from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir import infer_shapes, verify
from graphopt.passes.normalize.refine_shapes import RefineShapes
from graphopt.rewriting.passes import PassContext
from tests.helpers import check_declines, check_pass, model_of, value_named

PASS = RefineShapes()
INTS = {
    "zero": np.array([0], np.int64),
    "one": np.array([1], np.int64),
    "two": np.array([2], np.int64),
    "minus": np.array([-1], np.int64),
    "heads": np.array([3], np.int64),
    "axis": np.array([1], np.int64),
    "end": np.array([1_000_000_000], np.int64),
    "table": np.zeros((1, 512, 6), np.float32),
}


def refined(text, name):
    """The shape that the pass finds for a value."""
    model = model_of(text, INTS)
    infer_shapes(model)
    PASS.run(model.graph, PassContext(model))
    verify(model)
    return value_named(model, name).shape


POSITIONS = (
    "g (int64[B,S] I, float[B,S,6] X) => (float[P,Q,6] Z) { n = Shape <start = 1, end = 2> (I)  "
    "p = Slice(table, zero, n, axis)  y = Add(X, p)  z = Relu(y)  Z = Neg(z) }"
)


def test_a_table_cut_to_the_length_of_the_input_fits_the_input():
    """The cut is the smaller of 512 and S, and a sum with a size of S has a result only if that is S, or 1."""
    assert refined(POSITIONS, "y") == ("B", "S", 6)
    assert refined(POSITIONS, "z") == ("B", "S", 6)


def test_declared_names_of_outputs_stay():
    assert refined(POSITIONS, "Z") == ("P", "Q", 6)


def test_a_table_cut_to_another_length_says_nothing():
    text = POSITIONS.replace("float[B,S,6] X", "float[B,T,6] X")
    assert refined(text, "y")[0] == "B"
    assert refined(text, "y")[1] not in ("S", "T")


def test_reshapes_to_computed_shapes():
    text = (
        "g (float[B,S,6] X) => (float Y) { b = Shape <start = 0, end = 1> (X)  s = Shape <start = 1, end = 2> (X)  "
        "t = Concat <axis = 0> (b, s, heads, minus)  y = Reshape(X, t)  u = Concat <axis = 0> (minus, s, two)  "
        "v = Reshape(y, u)  w = Concat <axis = 0> (zero, minus)  Y = Reshape(X, w) }"
    )
    assert refined(text, "y") == ("B", "S", 3, 2)
    assert refined(text, "v")[1:] == ("S", 2)


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        ("(minus, s, six)", ("B", "S", 6)),
        ("(b, minus, six)", ("B", "S", 6)),
        ("(minus, s, heads)", (None, "S", 3)),
        ("(b, s, minus)", ("B", "S", 6)),
        ("(minus, six)", (None, 6)),
    ],
)
def test_the_size_that_is_left_over(target, shape):
    text = (
        "g (float[B,S,6] X) => (float Y) <int64[1] six = {6}> { b = Shape <start = 0, end = 1> (X)  "
        f"s = Shape <start = 1, end = 2> (X)  t = Concat <axis = 0> {target}  y = Reshape(X, t)  Y = Neg(y) }}"
    )
    found = refined(text, "y")
    assert [a if b is not None else None for a, b in zip(found, shape)] == list(shape)
    named = [dim for dim, wanted in zip(found, shape) if wanted is None]
    assert all(dim not in ("B", "S") for dim in named)


def test_expand_and_constant_of_shape():
    text = (
        "g (float[B,1,6] X, int64[B,S] I) => (float Y) { n = Shape(I)  t = Concat <axis = 0> (n, one)  "
        "y = Expand(X, t)  c = ConstantOfShape(n)  Y = Neg(y) }"
    )
    assert refined(text, "y") == ("B", "S", 6)
    assert refined(text, "c") == ("B", "S")


def test_cuts_to_the_end():
    text = "g (float[B,S,6] X) => (float Y) { y = Slice(X, zero, end, zero)  Y = Neg(y) }"
    assert refined(text, "y") == ("B", "S", 6)
    from_one = text.replace("X, zero", "X, one")
    assert refined(from_one, "y")[0] != "B"


def test_sums_of_different_sizes_say_nothing():
    text = "g (float[B,S] X, float[B,T] Z) => (float Y) { y = Add(X, Z)  Y = Neg(y) }"
    assert refined(text, "y")[0] == "B"
    assert refined(text, "y")[1] not in ("S", "T")


def test_numbers_and_results_stay_and_a_second_run_finds_nothing():
    check_pass(PASS, POSITIONS, weights=INTS, counts={"values refined": 3}, shapes={"X": (2, 5, 6), "I": (2, 5)})


def test_inside_a_branch():
    text = (
        "g (float[B,S,6] X, bool C) => (float[B,S,6] Y) { s = Shape(X)  Y = If (C) <"
        "then_branch = t () => (float[B,S,6] y) { f = Flatten <axis = 1> (X)  r = Reshape(f, s)  y = Relu(r) }, "
        "else_branch = e () => (float[B,S,6] y) { y = Neg(X) }> }"
    )
    model = model_of(text)
    infer_shapes(model)
    PASS.run(model.graph, PassContext(model))
    inner = [value for graph in model.graph.all_graphs() for value in graph.values() if value.name == "r"]
    assert [value.shape for value in inner] == [("B", "S", 6)]


def test_older_opsets_are_left_alone():
    header = '<ir_version: 8, opset_import: ["" : 17]> '
    check_declines(PASS, header + POSITIONS, "opset below 18", weights=INTS)


def test_declared_names_of_outputs_hide_nothing_from_what_reads_them():
    text = POSITIONS.replace("y = Add", "Z = Add").replace("z = Relu(y)  Z = Neg(z)", "y = Relu(Z)")
    assert refined(text, "Z") == ("P", "Q", 6)
    assert refined(text, "y") == ("B", "S", 6)
