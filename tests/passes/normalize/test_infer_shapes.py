"""infer-shapes: types where there were none, and nothing lost where inference knows less."""

from __future__ import annotations

from graphopt.ir import DType, OpaqueType, TensorType
from graphopt.ir.infer import merge_types
from graphopt.ir.text import parse
from graphopt.passes.normalize.infer_shapes import InferShapes
from graphopt.rewriting.pipeline import PassManager, Pipeline
from tests.helpers import check_round_trip

HEADER = '<ir_version: 10, opset_import: ["": 22, "acme": 1]> '


def types_of(body: str) -> dict[str, str]:
    model = parse(HEADER + body)
    PassManager(Pipeline.of(InferShapes())).run(model)
    return {value.name: str(value.type) for graph in model.graph.all_graphs() for value in graph.values()}


def test_finds_types_through_shape_arithmetic() -> None:
    types = types_of(
        "g (float[N,6,4] X) => (float[A,B] Y) <int64[1] k = {24}, int64[1] zero = {0}> "
        "{ s = Shape(X)  n = Gather(s, zero)  t = Concat<axis=0>(n, k)  r = Reshape(X, t)  Y = Relu(r) }"
    )
    assert types["r"] == "float32[N,24]"
    assert types["s"] == "int64[3]"


def test_reaches_into_nested_graphs() -> None:
    types = types_of(
        "g (bool c, float[2,3] X) => (float[A,B] Y) { Y = If(c) <then_branch = t () => (float[C,D] a) "
        "{ h = Transpose(X)  a = Transpose(h) }, else_branch = e () => (float[E,F] b) { b = Neg(X) }> }"
    )
    assert types["h"] == "float32[3,2]"


def test_what_the_model_says_of_unknown_operators_stays() -> None:
    types = types_of("g (float[2,3] X) => (float[2,7] Y) <float[2,7] h> { h = acme.Grow(X)  Y = Relu(h) }")
    assert types["h"] == "float32[2,7]"


def test_contradictions_keep_what_was_said() -> None:
    types = types_of("g (float[2,3] X) => (float[9] Y) { h = Relu(X)  Y = Relu(h) }")
    assert types["Y"] == "float32[9]"


def test_counts_and_round_trip() -> None:
    model = parse(HEADER + "g (float[2] X) => (float[2] Y) { a = Relu(X)  b = Abs(a)  Y = Neg(b) }")
    report = PassManager(Pipeline.parse("infer-shapes,infer-shapes")).run(model)
    assert [step.counts for step in report.steps] == [{"values typed": 2}, {"values typed": 0}]
    assert [step.changed for step in report.steps] == [True, False]
    check_round_trip(InferShapes())


def test_merging_two_descriptions() -> None:
    def tensor(*shape: int | str | None) -> TensorType:
        return TensorType(DType.FLOAT, shape)

    assert merge_types(tensor("N", None, 3), tensor(2, "M", "K")) == tensor(2, "M", 3)
    assert merge_types(tensor("N"), tensor("unk__0")) == tensor("N")
    assert merge_types(None, tensor(1)) == tensor(1)
    assert merge_types(TensorType(DType.FLOAT), tensor(1, 2)) == tensor(1, 2)
    assert merge_types(tensor(1, 2), tensor(1)) == tensor(1, 2)
    assert merge_types(tensor(1), TensorType(DType.INT64, (1,))) == tensor(1)
    assert merge_types(OpaqueType(b"x"), tensor(1)) == OpaqueType(b"x")
