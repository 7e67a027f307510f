"""Fixing input shapes."""

from __future__ import annotations

import pytest

from graphopt.errors import InputError
from graphopt.rewriting.shapes import fix_shapes
from tests.helpers import model_of, value_named

TWO = "g (float[N,M] a, float[N,4] b) => (float[N,K] y) { c = Concat<axis=1>(a, b)  y = Relu(c) }"


def test_symbols_are_fixed_wherever_they_are_named() -> None:
    model = model_of(TWO)
    fix_shapes(model, {"a": (2, 3)})
    assert value_named(model, "a").shape == (2, 3)
    assert value_named(model, "b").shape == (2, 4)
    assert value_named(model, "c").shape == (2, 7)
    assert value_named(model, "y").shape == (2, 7)


def test_nothing_asked_changes_nothing() -> None:
    model = model_of(TWO)
    version = model.version
    fix_shapes(model, {})
    assert model.version == version


def test_nested_graphs_are_fixed_too() -> None:
    model = model_of(
        "g (float[N] x, bool c) => (float[N] y) { y = If(c) <then_branch = t () => (float[N] p) { p = Relu(x) }, "
        "else_branch = e () => (float[N] q) { q = Abs(x) }> }"
    )
    fix_shapes(model, {"x": (5,)})
    branch = next(iter(model.graph.nodes)).subgraphs[0]
    assert branch.outputs[0].shape == (5,)
    assert value_named(model, "y").shape == (5,)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1, 2)}, "there is no input 'z'"),
        ({"a": (1, 2, 3)}, "3 dimensions"),
        ({"b": (1, 5)}, "fixes it to 4"),
        ({"a": (1, 2), "b": (2, 4)}, "'N' is already 1"),
    ],
)
def test_what_does_not_fit_is_refused(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    model = model_of(TWO)
    with pytest.raises(InputError, match=message):
        fix_shapes(model, shapes)
