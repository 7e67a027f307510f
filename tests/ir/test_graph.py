"""Values, nodes and graphs: uses, captures, safe iteration, order, names, copies."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import VerificationError
from graphopt.ir import Attribute, AttributeKind, DType, Model, Tensor, TensorType, edit, infer_shapes, verify
from graphopt.ir.frozen import write
from graphopt.ir.text import parse, to_text
from graphopt.rewriting.rewriter import Rewriter

HEADER = '<ir_version: 10, opset_import: ["": 22]> '


def model_of(body: str) -> Model:
    return parse(HEADER + body)


NESTED = (
    "g (bool c, float[3] x) => (float[3] y) { h = Relu(x)  y = If(c) <"
    "then_branch = t () => (float[3] a) { a = Add(h, x) }, else_branch = e () => (float[3] h2) { h2 = Abs(h) }> }"
)


def test_uses_count_captures() -> None:
    model = model_of(NESTED)
    h = model.graph.find("h")
    assert [use.node.op_type for use in h.uses] == ["Add", "Abs"]
    assert h.sole_user is None
    assert [g.name for g in model.graph.all_graphs()] == ["g", "t", "e"]
    assert sum(1 for _ in model.graph.all_nodes()) == 4
    add = h.uses[0].node
    assert add.graph.parent.op_type == "If"
    assert model.graph.encloses(add.graph)
    assert not add.graph.encloses(model.graph)


def test_removing_a_node_gives_up_its_captures() -> None:
    model = model_of(NESTED)
    choice = model.graph.nodes.last
    inner = [node for graph in choice.subgraphs for node in graph.nodes]
    Rewriter(model.graph, choice).replace(choice, model.graph.find("h"))
    assert [node.op_type for node in model.graph.nodes] == ["Relu"]
    assert all(node.removed for node in inner)
    assert model.graph.find("y").is_graph_output
    verify(model)


def test_iteration_survives_changes() -> None:
    model = model_of("g (float[3] x) => (float[3] y) { a = Relu(x)  b = Abs(x)  c = Neg(x)  y = Exp(x) }")
    rewriter = Rewriter(model.graph)
    seen = []
    for node in model.graph.nodes:
        seen.append(node.op_type)
        if node.op_type == "Relu":
            for other in list(model.graph.nodes)[1:3]:
                rewriter.remove(other)
            rewriter.op("Sqrt", [model.graph.find("x")], before=model.graph.nodes.last)
        if node.op_type == "Sqrt":
            rewriter.op("Sin", [model.graph.find("x")], before=node)
            rewriter.remove(node)
            rewriter.op("Cos", [model.graph.find("x")], before=None)
    assert seen == ["Relu", "Sqrt", "Exp", "Cos"]
    assert [n.op_type for n in reversed(model.graph.nodes)] == ["Cos", "Exp", "Sin", "Relu"]
    assert len(model.graph.nodes) == 4


def test_version_moves_with_each_change_only() -> None:
    model = model_of("g (float[3] x) => (float[3] y) { y = Relu(x) }")
    version = model.version
    list(model.graph.all_nodes())
    to_text(model)
    verify(model)
    assert model.version == version
    Rewriter(model.graph).constant(1.0)
    assert model.version > version


def test_copy_is_independent() -> None:
    model = model_of(NESTED)
    copy = model.copy()
    text = to_text(model)
    Rewriter(copy.graph).replace(copy.graph.nodes.last, copy.graph.find("h"))
    verify(copy)
    verify(model)
    assert to_text(model) == text


def test_unique_names() -> None:
    model = model_of("g (float[3] x) => (float[3] x_1) { x_1 = Relu(x) }")
    assert model.unique_name("x") == "x_2"
    assert model.unique_name("x_1") == "x_3"
    assert model.unique_name("new") == "new"
    assert model.unique_name("new") == "new_1"
    assert model.unique_name("") == "value"


def test_a_deep_graph_needs_no_recursion() -> None:
    """20,000 nodes in a row: walking, sorting, copying, verifying and inferring shapes."""
    model = Model()
    edit.describe(model, ir_version=10)
    edit.set_graph_inputs(model.graph, [edit.new_value(model.graph, "x", TensorType(DType.FLOAT, (2,)))])
    rewriter = Rewriter(model.graph)
    rewriter.set_opset("", 22)
    value = model.graph.inputs[0]
    for _ in range(20_000):
        value = rewriter.op("Relu", [value]).output
    rewriter.set_outputs([value])
    edit.reorder(model.graph, list(reversed(list(model.graph.nodes))))
    assert not model.graph.is_sorted()
    edit.reorder(model.graph, model.graph.topological_order())
    verify(model.copy())
    infer_shapes(model)
    assert value.shape == (2,)
    Rewriter(model.graph).set_outputs([model.graph.find(model.graph.nodes.first.output.name)])
    assert Rewriter(model.graph).remove_dead(model.graph.nodes.last) == 19_999


def test_cycles_are_left_out_of_the_order() -> None:
    model = model_of("g (float[3] x) => (float[3] y) { a = Relu(x)  b = Add(a, x)  y = Abs(b) }")
    relu, add, _ = model.graph.nodes
    edit.replace_input(relu, 0, add.output)
    assert model.graph.topological_order() == []
    with pytest.raises(VerificationError, match="before it is produced"):
        verify(model)


def test_constants() -> None:
    model = model_of(
        "g () => (float[2] y, float[] z) <float[2] w = {1, 2}> "
        "{ c = Constant<value_float=3.0>()  y = Mul(w, c)  z = Neg(c) }"
    )
    w, c = model.graph.find("w"), model.graph.find("c")
    assert w.constant.numpy().tolist() == [1, 2]
    assert (c.constant.dtype, c.constant.shape, c.constant.item()) == (DType.FLOAT, (), 3.0)
    assert model.graph.find("y").constant is None


class TestTensor:
    def test_digest_tells_content_type_and_shape_apart(self) -> None:
        arrays = [np.zeros(4, np.float32), np.zeros((2, 2), np.float32), np.zeros(4, np.int32), np.ones(4, np.float32)]
        assert len({Tensor.of(a).digest for a in arrays}) == 4
        assert Tensor.of(arrays[0]).digest == Tensor.of(arrays[0].copy()).digest
        assert Tensor.of(np.array(["a", "bc"])).digest != Tensor.of(np.array(["ab", "c"])).digest
        assert Tensor.of(np.float32(0.0)).digest != Tensor.of(np.float32(-0.0)).digest

    def test_is_immutable(self) -> None:
        array = np.zeros(3)
        tensor = Tensor.of(array)
        array[0] = 1
        assert tensor.numpy()[0] == 0
        with pytest.raises(ValueError, match="read-only"):
            tensor.numpy()[0] = 1

    def test_sizes(self) -> None:
        assert Tensor.of(np.zeros((3, 5), np.float16)).nbytes == 30
        assert Tensor.of(np.zeros((0, 5))).size == 0
        packed = Tensor(DType.INT4, (3,), lambda: np.zeros(3, DType.INT4.numpy))
        assert packed.nbytes == 2
        assert Tensor.of(np.array(["ab", "c"])).nbytes == 3


class TestAttribute:
    def test_kinds(self) -> None:
        assert Attribute.of(True) == Attribute(AttributeKind.INT, 1)
        assert Attribute.of([1, 2.5]) == Attribute(AttributeKind.FLOATS, (1.0, 2.5))
        assert Attribute.of("a").kind is AttributeKind.STRING
        assert Attribute.of(np.ones(2)).kind is AttributeKind.TENSOR

    @pytest.mark.parametrize("value", [[], [1, "a"], object()])
    def test_what_has_no_kind(self, value: object) -> None:
        with pytest.raises(TypeError):
            Attribute.of(value)


def test_dtype_knows_every_onnx_element_type() -> None:
    import onnx

    for name, number in onnx.TensorProto.DataType.items():
        assert DType(number).name == name
        if number:
            assert DType.of(DType(number).numpy) is DType(number) or name == "STRING"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda g: write(g.find("h"), "producer", None), "nothing produces 'h'"),
        (lambda g: g.find("x")._uses.clear(), "does not list its use by"),
        (lambda g: write(g.find("h"), "name", "other"), "listed under the name"),
        (lambda g: edit.set_inputs(g.nodes.first, []), "has 0 inputs"),
        (lambda g: write(g.nodes.first, "op_type", "Nonsense"), "has no operator Nonsense"),
        (lambda g: edit.set_attribute(g.nodes.first, "alpha", Attribute.of(1)), "unknown \\['alpha'\\]"),
        (lambda g: edit.set_graph_outputs(g, [g.find("y"), g.find("y")]), "twice"),
        (lambda g: edit.set_inputs(g.nodes.first, [g.nodes.last.subgraphs[0].find("a")]), "out of scope"),
        (lambda g: write(g.nodes.first, "domain", "nowhere"), ""),
    ],
)
def test_verifier(spoil: object, message: str) -> None:
    model = model_of(NESTED)
    verify(model)
    spoil(model.graph)  # type: ignore[operator]
    if not message:
        verify(model)  # an operator of a domain that nobody describes is the backend's business
        return
    with pytest.raises(VerificationError, match=message):
        verify(model)


def test_text_round_trip_keeps_weights() -> None:
    model = model_of("g () => (float[3] y) <float[3] w = {1.25, -0.0, 1e-30}> { y = Relu(w) }")
    again = parse(to_text(model))
    assert again.graph.find("w").tensor.digest == model.graph.find("w").tensor.digest
