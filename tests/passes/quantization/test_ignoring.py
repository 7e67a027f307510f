"""Patterns of nodes that quantization leaves alone."""

from __future__ import annotations

import pytest

from graphopt.errors import PassError
from graphopt.ir import Model
from graphopt.passes.quantization.ignoring import check_patterns, ignored_nodes
from graphopt.rewriting.passes import PassContext
from tests.helpers import model_of

TEXT = """<ir_version: 10, opset_import: ["" : 21]> g (float[4,4] X) => (float[4,4] Y) {
    [body_0_relu] a = Relu(X)  [body_1_relu] b = Relu(a)  [side] s = Neg(a)  [body_2_add] c = Add(b, s)
    [head] Y = Relu(c) }"""


def found(model: Model, *patterns: str) -> tuple[list[str], dict[str, int]]:
    context = PassContext(model)
    nodes = ignored_nodes(model.graph, patterns, context)
    return [node.name for node in model.graph.nodes if node in nodes], dict(context.misses)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["Neg"], ["side"]),
        (["body_*"], ["body_0_relu", "body_1_relu", "body_2_add"]),
        (["body_?_relu", "head"], ["body_0_relu", "body_1_relu", "head"]),
        ([r"re:body_[12]_.*"], ["body_1_relu", "body_2_add"]),
        ([r"re:body"], []),
        (["s", "re:[YZ]"], ["side", "head"]),  # the names of results
        (["body_1_relu..head"], ["body_1_relu", "body_2_add", "head"]),
        (["body_0_relu..body_2_add"], ["body_0_relu", "body_1_relu", "side", "body_2_add"]),
        (["side..body_1_relu"], []),
        (["Neg..Add"], ["side", "body_2_add"]),
        ([], []),
    ],
)
def test_patterns(patterns: list[str], names: list[str]) -> None:
    nodes, misses = found(model_of(TEXT), *patterns)
    assert nodes == names
    assert bool(misses) == (bool(patterns) and not names)


def test_a_range_needs_both_ends() -> None:
    with pytest.raises(PassError, match="no node is meant by 'tail' of the pattern"):
        found(model_of(TEXT), "head..tail")


@pytest.mark.parametrize("pattern", ["re:(", "..head", "side.."])
def test_patterns_are_checked(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"no regular expression|lacks an end"):
        check_patterns([pattern])
    check_patterns(["re:a..b", "a..b", "*"])
