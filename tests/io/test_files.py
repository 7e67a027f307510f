"""Reading and writing model files: nothing is lost, and nothing unsafe is trusted."""

from __future__ import annotations

import functools
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import io
from graphopt.errors import ModelError
from graphopt.ir import DType, Tensor, TensorType, edit, verify
from graphopt.ir.text import parse, to_text
from graphopt.rewriting.rewriter import Rewriter

NODE_TESTS = 1_700
"""At least so many models must have been compared; onnx 1.23.2 has 1,884."""


_MAY_BE_EMPTY = ("name", "domain", "doc_string", "producer_version", "model_version")


def normal(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model in the one form in which equal meaning is equal bytes: tensors raw, order of value_info by name,
    fields that say nothing absent."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    _normal_graph(proto.graph)
    _drop_empty(proto)
    return proto


def _normal_graph(graph: onnx.GraphProto) -> None:
    outputs = {value.name for value in graph.output}
    produced = {name for node in graph.node for name in node.output} - outputs
    infos = sorted((i for i in graph.value_info if i.name in produced), key=lambda info: info.name)
    del graph.value_info[:]
    graph.value_info.extend(infos)
    for tensor in graph.initializer:
        _normal_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _normal_tensor(attribute.t)
                attribute.t.name = ""
            if attribute.HasField("g"):
                _normal_graph(attribute.g)


def _normal_tensor(tensor: TensorProto) -> None:
    if tensor.data_type != TensorProto.STRING:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))


def _drop_empty(message: object) -> None:
    for field in message.DESCRIPTOR.fields:  # type: ignore[attr-defined]
        if field.type == field.TYPE_MESSAGE:
            if field.is_repeated:
                for item in getattr(message, field.name):
                    _drop_empty(item)
            elif message.HasField(field.name):  # type: ignore[attr-defined]
                _drop_empty(getattr(message, field.name))
        elif not field.is_repeated and field.name in _MAY_BE_EMPTY and not getattr(message, field.name):
            message.ClearField(field.name)  # type: ignore[attr-defined]


def test_every_node_test_model_comes_back() -> None:
    """Read and written, copied, and printed and parsed, each model of ONNX's backend tests means the same."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    assert len(cases) >= NODE_TESTS
    for case in cases:
        expected = normal(case.model)
        model = io.load(case.model)
        verify(model)
        assert normal(io.to_proto(model)) == expected, case.name
        assert normal(io.to_proto(model.copy())) == expected, case.name
        assert normal(io.to_proto(parse(to_text(model)))).graph.node == expected.graph.node, case.name


def rich_model() -> onnx.ModelProto:
    """A model with everything that a reader could drop."""
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "inner"], ["y"])],
        "then",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(3, np.float32), "inner")],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])],
        "else",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("If", ["c"], ["i"], then_branch=branch, else_branch=other, name="choice", doc_string="why"),
        helper.make_node("Double", ["i"], ["d"], domain="local", by=2.0),
        helper.make_node("Custom", ["d", "", "w"], ["o", "", "q"], domain="acme", words=["a", "b"], data=b"\xff\xfe"),
        helper.make_node("SequenceConstruct", ["o"], ["s"]),
    ]
    nodes[0].metadata_props.add(key="layer", value="7")
    nodes[2].attribute.append(helper.make_attribute("nothing", [], attr_type=onnx.AttributeProto.INTS))
    nodes[2].attribute.append(helper.make_attribute("type", helper.make_tensor_type_proto(1, [2, None, "n"])))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])
    x.type.denotation = "IMAGE"
    x.type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    inputs = [helper.make_tensor_value_info("c", TensorProto.BOOL, []), x]
    inputs.append(helper.make_tensor_value_info("w", TensorProto.INT4, [3]))
    weights = [helper.make_tensor("w", TensorProto.INT4, [3], [1, -2, 7])]
    graph = helper.make_graph(nodes, "rich", inputs, [sequence], weights, doc_string="graph doc")
    graph.value_info.append(helper.make_tensor_value_info("i", TensorProto.FLOAT, [None]))
    graph.metadata_props.add(key="g", value="1")
    graph.quantization_annotation.add(tensor_name="i").quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    function = helper.make_function(
        "local",
        "Double",
        ["a"],
        ["b"],
        [helper.make_node("Constant", [], ["k"]), helper.make_node("Mul", ["a", "k"], ["b"])],
        [helper.make_opsetid("", 22)],
        ["by"],
        [helper.make_attribute("spare", 3)],
    )
    reference = function.node[0].attribute.add(name="value_float", type=onnx.AttributeProto.FLOAT)
    reference.ref_attr_name = "by"
    model = helper.make_model(
        graph,
        functions=[function],
        opset_imports=[helper.make_opsetid(d, v) for d, v in (("", 22), ("local", 1), ("acme", 3))],
        producer_name="p",
        producer_version="1.2",
        model_version=5,
        domain="org",
        doc_string="doc",
        ir_version=10,
    )
    model.metadata_props.add(key="author", value="me")
    return model


def test_nothing_is_lost() -> None:
    proto = rich_model()
    assert normal(io.to_proto(io.load(proto))) == normal(proto)


def test_overridable_initializer_is_no_constant() -> None:
    value = io.load(rich_model()).graph.find("w")
    assert value.is_graph_input
    assert value.tensor.numpy().tolist() == [1, -2, 7]
    assert value.constant is None


def test_initializers_of_old_models_are_constants() -> None:
    """Before IR version 4 an initializer had to be listed as an input; ONNX Runtime takes it for a constant too."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "old",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xw"],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.ones(2, np.float32), "w")],
    )
    model = io.load(helper.make_model(graph, ir_version=3, opset_imports=[helper.make_opsetid("", 8)]))
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert model.graph.find("w").constant is not None
    assert io.to_proto(model).ir_version == 4


@pytest.mark.parametrize("external", [False, True])
def test_save_and_load(tmp_path: Path, external: bool) -> None:
    weight = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    model = parse(
        '<ir_version: 10, opset_import: ["": 22]> g (float[40,50] X) => (float[40,50] Y)'
        " <float[1] b = {2.}> { t = Identity(X)  Y = Add(t, b) }"
    )
    rewriter = Rewriter(model.graph)
    value = rewriter.constant(weight, "W")
    rewriter.set_input(model.graph.nodes.last, 1, value)
    rewriter.remove_initializer(model.graph.find("b"))
    path = tmp_path / "m.onnx"
    io.save(model, path, external_data=external)
    assert sorted(p.name for p in tmp_path.iterdir()) == (["m.onnx", "m.onnx.data"] if external else ["m.onnx"])
    again = io.load(path)
    tensor = again.graph.find("W").tensor
    assert (tensor.location is not None) == external
    assert tensor.digest == Tensor.of(weight).digest
    np.testing.assert_array_equal(tensor.numpy(), weight)
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(path).graph.initializer[0]), weight)
    io.save(again, path, external_data=external)  # over the file that is mapped
    np.testing.assert_array_equal(io.load(path).graph.find("W").tensor.numpy(), weight)


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32),
        np.asfortranarray(np.arange(4000.0).reshape(40, 100)),
        np.arange(5001).astype(DType.INT4.numpy),
        np.zeros((0, 7), np.int64),
        np.array(["a" * 2000, "b"], object),
        np.random.default_rng(0).normal(size=20_000).astype(DType.BFLOAT16.numpy),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_weights_written_by_hand_are_a_proper_message(tmp_path: Path, array: np.ndarray) -> None:
    """`save` puts large weights after the message itself; parsers must see what `to_proto` says."""
    model = parse('<ir_version: 11, opset_import: ["": 23]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    weight = Rewriter(model.graph).constant(array, "w")
    edit.describe(weight, doc_string="documented")
    path = tmp_path / "m.onnx"
    io.save(model, path)
    assert onnx.load(path) == io.to_proto(model)
    onnx.checker.check_model(str(path))
    assert io.load(path).graph.find("w").tensor.digest == Tensor.of(array).digest


def test_reading_and_writing_copy_weights_once(tmp_path: Path) -> None:
    """Peak memory of a process that reads, shares and writes 64 MiB of weights, above what it had before."""
    program = """
import resource, sys
import numpy as np
from graphopt import io, optimize
from graphopt.ir.text import parse
from graphopt.rewriting.rewriter import Rewriter
if sys.argv[1] == "make":
    model = parse('<ir_version: 11, opset_import: ["": 23]> g (float[1,4096] x) => (float[1,4096] y) { y = Relu(x) }')
    weight = Rewriter(model.graph).constant(np.random.default_rng(0).random((4096, 4096), np.float32), "w")
    node = Rewriter(model.graph, model.graph.nodes.first).op("MatMul", [model.graph.inputs[0], weight])
    Rewriter(model.graph).set_input(model.graph.nodes.last, 0, node.output)
    io.save(model, "m.onnx")
else:
    import onnxruntime
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = peak()
    model, _ = optimize("m.onnx")
    io.save(model, "n.onnx")
    print((peak() - before) / 65536)
"""
    run = functools.partial(subprocess.run, cwd=tmp_path, check=True, capture_output=True, text=True)
    run([sys.executable, "-c", program, "make"])
    times = float(run([sys.executable, "-c", program, "measure"]).stdout)
    assert times < 3.5  # the file mapped, the message that is parsed, the weights taken out of it


def external_model(tmp_path: Path, **entries: object) -> Path:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [tensor],
    )
    path = tmp_path / "folder" / "m.onnx"
    path.parent.mkdir()
    path.write_bytes(helper.make_model(graph, ir_version=10).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "gone.bin"}, "'gone.bin' is missing"),
        ({"location": "../secret.bin"}, "outside the model's folder"),
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": "link.bin"}, "outside the model's folder"),
        ({}, "outside the model's folder"),
        ({"location": "here.bin", "offset": 8}, "bytes 8 to 24 of 'here.bin', which has 16"),
        ({"location": "here.bin", "offset": -4}, "bytes -4 to 12"),
        ({"location": "here.bin", "length": 12}, "takes 16 bytes, but there are 12"),
        ({"location": "here.bin", "offset": "many"}, "is not a number"),
    ],
)
def test_external_data_is_not_trusted(tmp_path: Path, entries: dict[str, object], message: str) -> None:
    path = external_model(tmp_path, **entries)
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    (path.parent / "here.bin").write_bytes(bytes(16))
    (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match=message) as error:
        io.load(path)
    assert str(path) in str(error.value)
    assert "'w'" in str(error.value)


def small(**changes: object) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="act")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 22)])


def cyclic(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = "z"
    proto.graph.node.append(helper.make_node("Relu", ["y"], ["z"]))


def dangling(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = "nowhere"


def twice(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Abs", ["x"], ["y"]))


def unknown_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].op_type = "Rellu"


def lying_size(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.add(name="w", data_type=1, dims=[1 << 40], raw_data=bytes(4))


def negative_size(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.add(name="w", data_type=1, dims=[-1], float_data=[1.0])


def unknown_type(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.add(name="w", data_type=99, dims=[1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cyclic, "depends on its own output"),
        (dangling, "needs 'nowhere', which no node"),
        (twice, "are named 'y'"),
        (unknown_operator, "onnx.checker finds it invalid: .*Rellu"),
        (lying_size, "takes 4398046511104 bytes, but there are 4"),
        (negative_size, "negative size"),
        (unknown_type, "element type 99 is unknown"),
    ],
)
def test_malformed_models(tmp_path: Path, spoil: object, message: str) -> None:
    proto = small()
    spoil(proto)  # type: ignore[operator]
    path = tmp_path / "bad.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=message) as error:
        io.load(path)
    assert str(path) in str(error.value)


def test_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        io.load(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="folder"):
        io.load(tmp_path)
    for content in (b"", b"hello, world", small().SerializeToString()[:-20], bytes(100)):
        path = tmp_path / "x.onnx"
        path.write_bytes(content)
        with pytest.raises(ModelError, match="not an ONNX model"):
            io.load(path)


def test_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ModelError, match="No space left"):
        io.save(io.load(small()), path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert path.read_bytes() == b"before"
    with pytest.raises(ModelError, match="cannot be written"):
        io.save(io.load(small()), tmp_path / "no" / "such" / "folder.onnx")


def test_nodes_out_of_order_are_sorted() -> None:
    proto = small()
    proto.graph.node.insert(0, helper.make_node("Abs", ["y"], ["z"]))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2]))
    assert [node.op_type for node in io.load(proto).graph.nodes] == ["Relu", "Abs"]


def test_graphsurgeon_bridge() -> None:
    graph = io.to_surgeon(io.load(small()))
    graph.nodes[0].op = "Abs"
    model = io.from_surgeon(graph)
    assert [node.op_type for node in model.graph.nodes] == ["Abs"]


def test_types_of_pairs_are_omitted_and_restored(tmp_path: Path) -> None:
    """Files state what does not follow from the inputs of QuantizeLinear and DequantizeLinear, and nothing else."""
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    f (float[N, 3] x, float scale, float[N] y) => (float[N, 3] result, float[N] odd)
    <int8 zero = {0}, uint8[N, 3] a, float[N, 3] b, int8[N, 3] c, float[N, 3] d, uint8[2] e> {
        a = QuantizeLinear(x, scale)
        b = DequantizeLinear(a, scale)
        c = QuantizeLinear(b, scale, zero)
        d = DequantizeLinear(c, scale, zero)
        result = Relu(d)
        e = QuantizeLinear(y, scale)
        odd = DequantizeLinear(e, scale)
    }
    """
    model = io.load(onnx.parser.parse_model(text))
    io.save(model, tmp_path / "pairs.onnx")
    stated = {info.name for info in onnx.load(tmp_path / "pairs.onnx").graph.value_info}
    assert stated == {"e"}, "only the size of 'e' is known from nowhere else"
    again = io.load(tmp_path / "pairs.onnx")
    for name in "abcde":
        value, before = again.graph.find(name), model.graph.find(name)
        assert value is not None
        assert before is not None
        assert value.type == before.type
        assert value.type is not None or name == "e"
    types = [node.outputs[0].type for node in again.graph.nodes]
    assert types[2] == TensorType(DType.INT8, ("N", 3))
