"""The work of each cleanup pass grows linearly with the size of the graph, counted in calls instead of time."""

from __future__ import annotations

import sys
from types import FrameType

import pytest

from graphopt.ir import Model, infer_shapes
from graphopt.ir.text import parse
from graphopt.rewriting.pipeline import PassManager, Pipeline

# One block of a long chain gives every pass something to do, and ends in the shape that it began with.
BLOCK = """
    a{i} = Transpose<perm=[0,2,1]>(x{i}) b{i} = Relu(a{i}) c{i} = Transpose<perm=[0,2,1]>(b{i})
    s{i} = Shape(c{i}) z{i} = Constant<value_ints=[0]>() g{i} = Gather(s{i}, z{i})
    t{i} = Constant<value_ints=[2,8]>() u{i} = Concat<axis=0>(g{i}, t{i}) d{i} = Reshape(c{i}, u{i})
    v{i} = Constant<value_ints=[0,4,4]>() e{i} = Reshape(d{i}, v{i})
    m{i} = Mul(e{i}, one) h{i} = Cast<to=11>(m{i}) j{i} = Cast<to=1>(h{i})
    k{i} = Constant<value_float={i}.5>() l{i} = Exp(k{i}) n{i} = Sigmoid(l{i}) o{i} = Add(j{i}, n{i})
    p{i} = Abs(o{i}) q{i} = Abs(o{i}) dead{i} = Neg(q{i})
    r{i} = If(yes) <then_branch = then () => (float[N,4,4] y) {{ y = Add(p{i}, q{i}) }},
                    else_branch = other () => (float[N,4,4] y) {{ y = Sub(p{i}, q{i}) }}>
    w{i} = Constant<value = float[4] {{1, 2, 3, 4}}>() x{next} = Mul(r{i}, w{i})
"""
PASSES = (
    "eliminate-dead",
    "eliminate-common-subexpressions",
    "fold-constants",
    "fold-if",
    "fold-shapes",
    "remove-no-ops",
    "simplify-cast",
    "simplify-reshape",
    "simplify-transpose",
    "share-weights",
)


def chain(blocks: int) -> Model:
    body = "".join(BLOCK.format(i=i, next=i + 1) for i in range(blocks))
    header = '<ir_version: 10, opset_import: ["" : 21]>'
    signature = f"g (float[N,4,4] x0) => (float[N,4,4] x{blocks}) <float one = {{1}}, bool yes = {{1}}>"
    model = parse(f"{header} {signature} {{ {body} }}")
    infer_shapes(model)
    return model


def calls(pipeline: Pipeline, model: Model) -> int:
    """Return how many functions, in Python and C, a run calls."""
    count = 0

    def counted(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        PassManager(pipeline).run(model)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("name", PASSES)
def test_twice_the_graph_is_twice_the_work(name: str) -> None:
    # share-weights looks at initializers, simplify-reshape at targets that others made constant
    before = {"share-weights": "fold-constants", "simplify-reshape": "fold-constants,fold-shapes"}.get(name, "")
    counts = []
    for blocks in (40, 80):
        model = chain(blocks)
        PassManager(Pipeline.parse(before)).run(model)
        version = model.version
        counts.append(calls(Pipeline.parse(name), model))
        assert model.version > version, "the pass had nothing to do"
    assert counts[1] < 2.2 * counts[0]
