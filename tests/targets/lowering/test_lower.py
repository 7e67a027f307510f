"""Lowering apart from numbers: weights, names, messages about unsupported nodes, and deep graphs."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from graphopt.errors import UnsupportedError
from graphopt.operators import DOMAIN, OPERATORS
from graphopt.rewriting.rewriter import Rewriter
from graphopt.targets.tvm.converters import find, operators
from graphopt.targets.tvm.lowering.lower import lower, unsupported
from tests.helpers import model_of
from tests.targets.lowering.support import check, lowered, noise


def test_large_constants_are_parameters_and_small_ones_are_not() -> None:
    weights = {"w": noise(20, 30), "b": noise(30)}
    _, result = lowered("g (float[N, 20] x) => (float[N, 30] z) { y = MatMul(x, w)  z = Add(y, b) }", weights)
    main = result.mod["main"]
    assert [name for name, _ in result.params] == ["w"]
    np.testing.assert_array_equal(result.params[0][1].array, weights["w"])
    assert int(main.attrs["num_input"]) == 1
    assert [param.name for param in main.params] == ["x", "w"]


def test_bindings_carry_the_users_names() -> None:
    text = "g (float[2, 3] x) => (float[3, 2] z) { [stem_relu] y = Relu(x)  [last] z = Transpose(y) }"
    _, result = lowered(text)
    assert "stem_relu" in result.mod["main"].script()


def test_every_unsupported_node_is_named_at_once() -> None:
    text = """<ir_version: 11, opset_import: ["" : 24, "other" : 1]> g (float[2, 3] x) => (float[2, 3] z) {
        [one] a = other.Strange(x)  [two] b = Relu(a)  [three] c = Det(b)  [four] z = other.Strange(b) }"""
    model = model_of(text)
    found = unsupported(model)
    assert [(problem.op, problem.label) for problem in found] == [
        ("other::Strange", "other::Strange 'one'"),
        ("Det", "Det 'three'"),
        ("other::Strange", "other::Strange 'four'"),
    ]
    with pytest.raises(UnsupportedError, match="3 nodes") as error:
        lower(model)
    assert "'one'" in str(error.value)
    assert "'four'" in str(error.value)


def test_a_reason_is_given() -> None:
    text = "g (float[2, 3] x, int64[K] a) => (float[A, B] z) { z = ReduceSum(x, a) }"
    (problem,) = unsupported(model_of(text))
    assert "axes" in problem.reason
    assert "constant" in problem.reason


def test_an_input_of_unknown_rank_is_declined() -> None:
    model = model_of("g (float[N] x) => (float[N] z) { z = Relu(x) }")
    proto_type = type(model.graph.inputs[0].type)
    Rewriter(model.graph).set_type(model.graph.inputs[0], proto_type(model.graph.inputs[0].dtype, None))
    (problem,) = unsupported(model)
    assert "--input" in problem.reason


def test_outputs_never_share_memory_with_inputs_weights_or_each_other() -> None:
    text = """g (float[2] x) => (float[2] a, float[2] b, float[300] c)
        { a = Identity(x)  b = Identity(a)  c = Identity(w) }"""
    check(text, {"x": noise(2)}, weights={"w": noise(300)})
    _, result = lowered(text, {"w": noise(300)})
    assert result.mod["main"].script().count("R.call_tir(") == 3


def test_a_deep_graph_needs_no_deep_stack() -> None:
    depth = 3 * sys.getrecursionlimit()
    steps = "  ".join(f"v{i + 1} = Relu(v{i})" for i in range(depth))
    model = model_of(f"g (float[4] v0) => (float[4] v{depth}) {{ {steps} }}")
    assert len(lower(model).mod["main"].body.blocks[-1].bindings) >= depth


def test_operators_without_a_converter_go_through_their_function_body() -> None:
    assert find("NegativeLogLikelihoodLoss", 22) is None
    text = (
        """g (float[3, 5] x, int64[3] t) => (float z) { z = NegativeLogLikelihoodLoss <reduction = "mean"> (x, t) }"""
    )
    check(text, {"x": noise(3, 5), "t": np.array([0, 4, 2])})


def test_every_converter_is_of_a_known_operator() -> None:
    import onnx.defs

    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    known |= {f"{DOMAIN}::{name}" for name in OPERATORS} | {"com.microsoft::MatMulNBits"}
    assert set(operators()) <= known
    assert {f"{DOMAIN}::{name}" for name in OPERATORS} <= set(operators())
    assert len(operators()) > 130
