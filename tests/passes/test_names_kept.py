"""Layers and weights that are still there after optimization have the names that they had before."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.analysis.diff import compare
from graphopt.ir import Model

FOLDED_BN = ("scale", "bias", "mean", "var")


class Export:
    """A model named as PyTorch's exporter names things: `/layer/Conv` gives `/layer/Conv_output_0`."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, op_type: str, inputs: list[str], name: str, **attributes: Any) -> str:
        output = f"{name}_output_0"
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        return output

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, np.abs(self.rng.normal(size=shape)).astype(np.float32) * 0.2 + 0.01)

    def constant(self, name: str, value: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def model(self, shape: list[int | str], result: list[int | str]) -> Model:
        last = self.nodes[-1].output
        last[0] = "result"
        ports = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", shape), ("result", result))]
        graph = helper.make_graph(self.nodes, "exported", ports[:1], ports[1:], self.weights)
        opset = [helper.make_opsetid("", 14)]
        return graphopt.load(helper.make_model(graph, opset_imports=opset, ir_version=8))


def residual_network() -> Model:
    e = Export()

    def conv_bn(x: str, name: str, channels: int) -> str:
        x = e.op("Conv", [x, e.weight(f"{name}.weight", 8, channels, 3, 3)], f"/{name}/Conv", pads=[1] * 4)
        return e.op("BatchNormalization", [x, *(e.weight(f"{name}.bn.{p}", 8) for p in FOLDED_BN)], f"/{name}/BN")

    x = e.op("Relu", [conv_bn("x", "stem", 3)], "/stem/Relu")
    for i in range(2):
        y = e.op("Relu", [conv_bn(x, f"layer{i}.conv1", 8)], f"/layer{i}/conv1/Relu")
        y = e.op("Add", [conv_bn(y, f"layer{i}.conv2", 8), x], f"/layer{i}/Add")
        x = e.op("Relu", [y], f"/layer{i}/Relu")
    x = e.op("Flatten", [e.op("GlobalAveragePool", [x], "/pool")], "/flatten")
    e.op("Gemm", [x, e.weight("fc.weight", 10, 8), e.weight("fc.bias", 10)], "/fc/Gemm", transB=1)
    return e.model([1, 3, 8, 8], [1, 10])


def transformer() -> Model:
    e = Export()
    split, join = (e.constant(n, np.array(v)) for n, v in (("split", [0, 0, 2, 8]), ("join", [0, 0, 16])))
    numbers = {n: e.constant(n, np.float32(v)) for n, v in (("two", 2), ("eps", 1e-5), ("one", 1), ("half", 0.5))}
    root = e.constant("root", np.float32(2**0.5))

    def linear(x: str, name: str, wide: int, out: int) -> str:
        x = e.op("MatMul", [x, e.weight(f"{name}.weight", wide, out)], f"/{name}/MatMul")
        return e.op("Add", [e.weight(f"{name}.bias", out), x], f"/{name}/Add")

    def norm(x: str, name: str) -> str:
        x = e.op("Sub", [x, e.op("ReduceMean", [x], f"/{name}/ReduceMean", axes=[-1])], f"/{name}/Sub")
        squares = e.op("Pow", [x, numbers["two"]], f"/{name}/Pow")
        variance = e.op("ReduceMean", [squares], f"/{name}/ReduceMean_1", axes=[-1])
        deviation = e.op("Sqrt", [e.op("Add", [variance, numbers["eps"]], f"/{name}/Add")], f"/{name}/Sqrt")
        x = e.op("Mul", [e.op("Div", [x, deviation], f"/{name}/Div"), e.weight(f"{name}.gain", 16)], f"/{name}/Mul")
        return e.op("Add", [x, e.weight(f"{name}.shift", 16)], f"/{name}/Add_1")

    def attention(x: str, name: str) -> str:
        heads = []
        for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            y = e.op("Reshape", [linear(x, f"{name}.{part}", 16, 16), split], f"/{name}/{part}/Reshape")
            heads.append(e.op("Transpose", [y], f"/{name}/{part}/Transpose", perm=order))
        scores = e.op("Div", [e.op("MatMul", heads[:2], f"/{name}/MatMul"), root], f"/{name}/Div")
        y = e.op("MatMul", [e.op("Softmax", [scores], f"/{name}/Softmax", axis=-1), heads[2]], f"/{name}/MatMul_1")
        y = e.op("Transpose", [y], f"/{name}/Transpose", perm=[0, 2, 1, 3])
        return linear(e.op("Reshape", [y, join], f"/{name}/Reshape"), f"{name}.out", 16, 16)

    def gelu(x: str, name: str) -> str:
        y = e.op("Erf", [e.op("Div", [x, root], f"/{name}/Div")], f"/{name}/Erf")
        y = e.op("Mul", [x, e.op("Add", [y, numbers["one"]], f"/{name}/Add")], f"/{name}/Mul")
        return e.op("Mul", [y, numbers["half"]], f"/{name}/Mul_1")

    x = "x"
    for i in range(2):
        x = e.op("Add", [x, attention(norm(x, f"l{i}.norm1"), f"l{i}.attention")], f"/l{i}/Add")
        y = gelu(linear(norm(x, f"l{i}.norm2"), f"l{i}.up", 16, 32), f"l{i}.gelu")
        x = e.op("Add", [x, linear(y, f"l{i}.down", 32, 16)], f"/l{i}/Add_1")
    return e.model(["batch", "length", 16], ["batch", "length", 16])


@pytest.mark.parametrize("make", [residual_network, transformer])
def test_no_node_gets_a_name_that_the_model_did_not_have(make: Any) -> None:
    model = make()
    optimized, _ = graphopt.optimize(model, verify=True)
    names = {node.name for node in model.graph.nodes}
    assert [node.name for node in optimized.graph.nodes if node.name not in names] == []
    assert len({node.name for node in optimized.graph.nodes}) == len(optimized.graph.nodes)


def test_a_residual_network_keeps_its_layers_weights_and_values() -> None:
    model = residual_network()
    optimized, _ = graphopt.optimize(model)
    kept = [n.name for n in model.graph.nodes if n.op_type != "BatchNormalization"]
    assert [node.name for node in optimized.graph.nodes] == kept
    values = {v.name for node in model.graph.nodes for v in node.outputs}
    assert {v.name for node in optimized.graph.nodes for v in node.outputs} <= values
    folded = {n for n in model.graph.initializers if ".bn." in n}
    biases = {f"{n.name}_bias" for n in model.graph.nodes if n.op_type == "Conv"}
    assert set(optimized.graph.initializers) == set(model.graph.initializers) - folded | biases


def test_a_transformer_keeps_its_layers_and_weights() -> None:
    model = transformer()
    optimized, _ = graphopt.optimize(model)
    ops = {node.name: node.op_type for node in optimized.graph.nodes}
    for i in range(2):
        for layer in ("attention.out", "up", "down"):
            assert ops[f"/l{i}.{layer}/MatMul"] == "MatMul"
            assert {f"l{i}.{layer}.weight", f"l{i}.{layer}.bias"} <= set(optimized.graph.initializers)
        assert ops[f"/l{i}.attention/MatMul_1"] == "Attention"
        assert {f"l{i}.norm1.gain", f"l{i}.norm1.shift"} <= set(optimized.graph.initializers)
    new = set(optimized.graph.initializers) - set(model.graph.initializers)
    assert all("merged" in name or "columns" in name for name in new), new


def test_diff_shows_only_what_changed() -> None:
    model = residual_network()
    optimized, _ = graphopt.optimize(model, "raise-opset,fuse-conv-bn,eliminate-dead")
    difference = compare(model, optimized)
    convolutions = {n.name for n in model.graph.nodes if n.op_type == "Conv"}
    norms = {n.name for n in model.graph.nodes if n.op_type == "BatchNormalization"}
    assert {change.what for change in difference.nodes} == convolutions | norms
    same = {"fc.weight", "fc.bias"}
    assert same.isdisjoint(change.what for change in difference.weights)
    assert {c.what for c in difference.weights if c.before and c.after} == {
        name for name in model.graph.initializers if name.endswith(".weight") and name not in same
    }
