"""inline-functions: calls replaced by bodies, attributes bound, names kept apart."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import ModelError, ModelWarning
from graphopt.ir import verify
from graphopt.ir.text import parse
from graphopt.passes.normalize.inline_functions import InlineFunctions
from graphopt.rewriting.pipeline import PassManager, Pipeline
from tests.helpers import check_declines, check_pass

HEADER = '<ir_version: 10, opset_import: ["": 22, "local": 1]> '
FUNCTION = '<domain: "local", opset_import: ["": 22{more}]> '


def model(graph: str, *functions: str, more: str = "") -> str:
    head = FUNCTION.replace("{more}", more)
    return HEADER + graph + "".join(head + function for function in functions)


def test_two_calls_with_different_attributes() -> None:
    text = model(
        "g (float[3] X) => (float[3] Y) { a = local.scaled<by=2.0>(X)  Y = local.scaled<by=-1.5>(a) }",
        "scaled <by> (x) => (y) { k = Constant<value_float: float = @by>()  y = Mul(x, k) }",
    )
    result = check_pass(InlineFunctions(), text, counts={"calls inlined": 2}, ops={"Mul": 2})
    assert not result.functions
    assert {node.origin for node in result.graph.nodes} == {("a",), ("Y",)}


def test_a_missing_attribute_is_left_out() -> None:
    text = model(
        "g (float[3] X) => (float[3] Y) { Y = local.leaky(X) }",
        "leaky <alpha> (x) => (y) { y = LeakyRelu<alpha: float = @alpha>(x) }",
    )
    result = check_pass(InlineFunctions(), text, ops={"LeakyRelu": 1})
    assert "alpha" not in result.graph.nodes.first.attributes


def test_calls_within_calls_and_within_branches() -> None:
    text = model(
        "g (bool c, float[3] X) => (float[3] Y) { Y = If(c) <"
        "then_branch = t () => (float[3] a) { a = local.outer(X) }, "
        "else_branch = e () => (float[3] b) { b = Neg(X) }> }",
        "inner (x) => (y) { y = Abs(x) }",
        "outer (x) => (y) { h = local.inner(x)  i = local.inner(h)  y = Exp(i) }",
        more=', "local": 1',
    )
    check_pass(InlineFunctions(), text, counts={"calls inlined": 3}, ops={"If": 1, "Abs": 2, "Exp": 1, "Neg": 1})


def test_an_omitted_input_stays_omitted() -> None:
    text = model(
        "g (float[3] X) => (float[3] Y) { Y = local.clip(X) }",
        "clip (x, low, high) => (y) { y = Clip(x, low, high) }",
    )
    check_pass(InlineFunctions(), text, ops={"Clip": 1}, inputs={"X": np.array([-1, 0, 5], np.float32)})


def test_a_function_that_passes_its_input_on() -> None:
    """ONNX Runtime cannot load such a function, ONNX allows it: the graph's output needs an Identity."""
    read = parse(model("g (float[3] X) => (float[3] Y) { Y = local.same(X) }", "same (x) => (x) { }"))
    PassManager(Pipeline.of(InlineFunctions())).run(read)
    verify(read)
    assert [(node.op_type, node.output.name) for node in read.graph.nodes] == [("Identity", "Y")]


def test_an_unused_output() -> None:
    text = model(
        "g (float[4] X) => (float[4] Y) { Y, rest = local.two(X) }", "two (x) => (a, b) { a = Neg(x)  b = Abs(x) }"
    )
    check_pass(InlineFunctions(), text, changes=True)


@pytest.mark.parametrize(("written_for", "model_opset"), [(12, 17), (17, 12)])
def test_a_body_of_another_opset_is_read_in_that_of_the_model(written_for: int, model_opset: int) -> None:
    """Results are compared with ONNX Runtime, which does the same; Softmax changed its meaning between the opsets."""
    text = (
        HEADER.replace("22", str(model_opset)) + "g (float[2,3,4] X) => (float[2,3,4] Y) { Y = local.f(X) }"
        f'<domain: "local", opset_import: ["": {written_for}]> f (x) => (y) {{ y = Softmax(x) }}'
    )
    with pytest.warns(ModelWarning, match=f"written for opset {written_for} of 'ai.onnx', and the model for"):
        result = check_pass(InlineFunctions(), text, ops={"Softmax": 1})
    assert result.opset == model_opset


def test_a_body_whose_operators_did_not_change_is_no_matter(recwarn: pytest.WarningsRecorder) -> None:
    text = (
        HEADER + "g (float[3] X) => (float[3] Y) { Y = local.f(X) }"
        '<domain: "local", opset_import: ["": 17]> f (x) => (y) { y = Relu(x) }'
    )
    check_pass(InlineFunctions(), text, ops={"Relu": 1})
    assert not recwarn.list


def test_no_functions() -> None:
    check_declines(InlineFunctions(), "g (float[3] X) => (float[3] Y) { Y = Relu(X) }")


def test_a_function_that_calls_itself_is_an_error() -> None:
    text = model(
        "g (float[3] X) => (float[3] Y) { Y = local.one(X) }",
        "one (x) => (y) { y = local.two(x) }",
        "two (x) => (y) { y = local.one(x) }",
        more=', "local": 1',
    )
    with pytest.raises(ModelError, match="calls itself"):
        PassManager(Pipeline.of(InlineFunctions())).run(parse(text))
