"""The Rewriter: the invariants that it preserves while it changes a graph."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir import Model, TensorType, infer_shapes, verify
from graphopt.ir.text import parse
from graphopt.rewriting.rewriter import Rewriter

HEADER = '<ir_version: 10, opset_import: ["": 22]> '


def model_of(body: str) -> Model:
    return parse(HEADER + body)


def named(model: Model, op_type: str):
    return next(node for node in model.graph.all_nodes() if node.op_type == op_type)


def test_new_nodes_go_in_front_inherit_origin_and_get_types() -> None:
    model = model_of("g (float[2,3] x) => (float[3,2] y) { a = Relu(x)  y = Transpose(a) }")
    infer_shapes(model)
    anchor = named(model, "Transpose")
    node = Rewriter(model.graph, anchor).op("Exp", [model.graph.find("a")])
    assert [n.op_type for n in model.graph.nodes] == ["Relu", "Exp", "Transpose"]
    assert node.origin == anchor.origin == ("y",)
    assert str(node.output.type) == "float32[2,3]"


def test_a_value_read_twice_counts_once_for_the_type() -> None:
    model = model_of("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }")
    x = model.graph.find("x")
    assert str(Rewriter(model.graph).op("Mul", [x, x]).output.type) == "float32[2,3]"


def test_a_replaced_output_keeps_its_name() -> None:
    model = model_of("g (float[2] x) => (float[2] y) { a = Relu(x)  y = Identity(a) }")
    node = named(model, "Identity")
    Rewriter(model.graph, node).replace(node, model.graph.find("a"))
    verify(model)
    assert [v.name for v in model.graph.outputs] == ["y"]
    assert model.graph.outputs[0].producer.op_type == "Relu"


@pytest.mark.parametrize(
    "body",
    [
        "g (float[2] x) => (float[2] y) { y = Relu(x) }",  # an input cannot become an output
        "g () => (float[2] y) <float[2] x = {1, 2}> { y = Relu(x) }",  # nor an initializer
        "g (float[2] z) => (float[2] x, float[2] y) { x = Abs(z)  y = Relu(x) }",  # nor what is one already
    ],
)
def test_identity_where_a_name_cannot_move(body: str) -> None:
    model = model_of(body)
    names = [v.name for v in model.graph.outputs]
    node = named(model, "Relu")
    Rewriter(model.graph, node).replace(node, model.graph.find("x"))
    verify(model)
    assert [v.name for v in model.graph.outputs] == names
    assert model.graph.outputs[-1].producer.op_type == "Identity"


def test_replace_reaches_captures_and_outputs_of_nested_graphs() -> None:
    model = model_of(
        "g (bool c, float[3] x) => (float[3] y) { h = Relu(x)  k = Abs(x)  y = If(c) <"
        "then_branch = t () => (float[3] a) { a = Add(h, h) }, else_branch = e () => (float[3] b) { b = Neg(h) }> }"
    )
    relu = named(model, "Relu")
    Rewriter(model.graph, relu).replace(relu, model.graph.find("k"))
    # The order is the pass manager's business: Abs stood before the If already.
    verify(model)
    assert {use.node.op_type for use in model.graph.find("k").uses} == {"Add", "Neg"}


def test_dead_producers_and_initializers_go_shared_ones_stay() -> None:
    model = model_of(
        "g (float[2] x) => (float[2] y, float[2] z) <float[2] w = {1, 2}, float[2] v = {3, 4}> "
        "{ a = Add(x, w)  b = Mul(a, v)  y = Relu(b)  z = Sub(x, w) }"
    )
    node = named(model, "Relu")
    Rewriter(model.graph, node).replace(node, model.graph.find("x"))
    assert [n.op_type for n in model.graph.nodes] == ["Sub", "Identity"]
    assert list(model.graph.initializers) == ["w"]


def test_scope_is_checked() -> None:
    model = model_of(
        "g (bool c, float[3] x) => (float[3] y) { h = Relu(x)  y = If(c) <"
        "then_branch = t () => (float[3] a) { i = Exp(x)  a = Add(i, i) }, "
        "else_branch = e () => (float[3] b) { b = Neg(x) }> }"
    )
    inner = named(model, "Exp").output
    rewriter = Rewriter(model.graph, model.graph.nodes.last)
    for change in (
        lambda: rewriter.replace_uses(model.graph.find("x"), inner),
        lambda: rewriter.set_input(named(model, "Relu"), 0, inner),
        lambda: rewriter.op("Abs", [inner]),
    ):
        with pytest.raises(ValueError, match="out of scope"):
            change()


def test_used_things_are_not_removed() -> None:
    model = model_of("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { a = Add(x, w)  y = Relu(a) }")
    rewriter = Rewriter(model.graph)
    with pytest.raises(ValueError, match="in use"):
        rewriter.remove(named(model, "Add"))
    with pytest.raises(ValueError, match="in use"):
        rewriter.remove_initializer(model.graph.find("w"))
    with pytest.raises(ValueError, match="in use"):
        rewriter.set_graph_inputs([])


def test_inlining_renames_and_binds() -> None:
    model = model_of(
        "g (bool c, float[3] x) => (float[3] y) { a = Relu(x)  y = If(c) <"
        "then_branch = t () => (float[3] i) <float[3] w = {1,2,3}> { j = Add(a, w)  i = Exp(j) }, "
        "else_branch = e () => (float[3] k) { k = Neg(x) }> }"
    )
    choice = model.graph.nodes.last
    rewriter = Rewriter(model.graph, choice)
    outputs = rewriter.inline(choice.subgraphs[0], {}, prefix="then/")
    rewriter.replace(choice, outputs)
    verify(model)
    assert [n.op_type for n in model.graph.nodes] == ["Relu", "Add", "Exp"]
    assert list(model.graph.initializers) == ["then/w"]


def test_omitted_outputs() -> None:
    model = model_of("g (float[4] x) => (float[2] v) <int64[1] k = {2}> { v, i = TopK(x, k) }")
    node = named(model, "TopK")
    rewriter = Rewriter(model.graph)
    rewriter.omit_output(node, 1)
    assert len(node.outputs) == 1
    with pytest.raises(ValueError, match="in use"):
        rewriter.omit_output(node, 0)


def test_what_was_known_of_a_type_stays_known() -> None:
    model = model_of("g (float[2] x, acme.thing[] _) => (float[2] y) { y = Relu(x) }".replace(", acme.thing[] _", ""))
    node = named(model, "Relu")
    rewriter = Rewriter(model.graph, node)
    rewriter.set_opset("acme", 1)
    new = rewriter.op("Thing", [model.graph.find("x")], domain="acme")
    assert new.output.type is None
    rewriter.replace(node, new.output)
    assert str(new.output.type) == "float32[2]"


def test_initializer_moves_out() -> None:
    model = model_of(
        "g (bool c, float[3] x) => (float[3] y) { y = If(c) <"
        "then_branch = t () => (float[3] i) <float[3] w = {1,2,3}> { i = Add(x, w) }, "
        "else_branch = e () => (float[3] k) { k = Neg(x) }> }"
    )
    inner = model.graph.nodes.first.subgraphs[0]
    moved = Rewriter(inner).move_initializer(inner.find("w"), model.graph)
    verify(model)
    assert moved.graph is model.graph
    assert not inner.initializers


def test_constant_takes_arrays_scalars_and_tensors() -> None:
    model = model_of("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    rewriter = Rewriter(model.graph)
    assert rewriter.constant(np.float32(2)).type == TensorType(model.graph.find("x").dtype, ())
    first = rewriter.constant(np.arange(3), "k")
    assert rewriter.constant(first.tensor, "k").name == "k_1"


def test_a_replacement_takes_over_names() -> None:
    model = model_of(
        "g (float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}> { [conv] c = Relu(x)  [bn] b = Mul(c, w)  y = Neg(b) }"
    )
    conv, bn, _ = model.graph.nodes
    weight = model.graph.find("w")
    rewriter = Rewriter(model.graph, bn)
    new = rewriter.op("PRelu", [conv.inputs[0], rewriter.constant(np.ones(3, np.float32), "w")], origin=[conv, bn])
    assert (new.name, new.output.name, new.inputs[1].name) == ("conv_1", "conv_1_out", "w_1")
    rewriter.replace(bn, new.output)
    assert (new.name, new.output.name, new.inputs[1].name) == ("conv", "b", "w")
    assert model.graph.find("w") is new.inputs[1] is not weight
    verify(model)


def test_a_name_stays_with_what_is_still_there() -> None:
    model = model_of(
        "g (float[3] x) => (float[3] y, float[3] z) <float[3] w = {1, 2, 3}> "
        "{ [conv] c = Relu(x)  [bn] b = Mul(c, w)  y = Add(b, c)  z = Neg(w) }"
    )
    conv, bn, _, _ = model.graph.nodes
    rewriter = Rewriter(model.graph, bn)
    new = rewriter.op("PRelu", [conv.inputs[0], rewriter.constant(np.ones(3, np.float32), "w")], origin=[conv, bn])
    rewriter.replace(bn, new.output)
    assert (new.name, new.output.name, new.inputs[1].name) == ("bn", "b", "w_1")
    assert conv.name == "conv"


def test_of_several_replacements_the_same_operator_takes_the_name() -> None:
    model = model_of("g (float[2,3] x) => (float[2,3] y) { [s] t = Softmax(x)  y = Neg(t) }")
    node = named(model, "Softmax")
    rewriter = Rewriter(model.graph, node)
    flat = rewriter.op("Flatten", [node.inputs[0]])
    soft = rewriter.op("Softmax", [flat.output])
    rewriter.replace(node, rewriter.op("Reshape", [soft.output, rewriter.op("Shape", [node.inputs[0]]).output]).output)
    assert (soft.name, flat.name) == ("s", "s_1")
    assert model.graph.find("t").producer.op_type == "Reshape"
