"""The forms of nodes for ONNX's inference: inferred sizes are those of ONNX Runtime's results."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

import graphopt
from graphopt.ir import Model, TensorType, infer_shapes
from graphopt.ir.infer import node_types
from graphopt.ir.text import parse


def sizes(model: Model) -> tuple[list[object], list[object]]:
    """Return the inferred shape of the only output: by inference of the model, and of its last node."""
    infer_shapes(model)
    alone = node_types(list(model.graph.nodes)[-1])[model.graph.outputs[0]]
    assert isinstance(alone, TensorType)
    return list(model.graph.outputs[0].shape or ()), list(alone.shape or ())


def computed(model: Model, x: np.ndarray) -> list[int]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its own inference does not expect these sizes either
    session = onnxruntime.InferenceSession(graphopt.io.to_proto(model).SerializeToString(), options)
    return list(session.run(None, {"x": x})[0].shape)


PADS = ["pads = [0,0]", "pads = [1,1]", *(f'auto_pad = "{mode}"' for mode in ("SAME_UPPER", "SAME_LOWER", "VALID"))]


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize(
    ("op", "opset"),
    [("MaxPool", 10), ("MaxPool", 12), ("MaxPool", 22), ("AveragePool", 11), ("AveragePool", 19), ("LpPool", 18)],
)
def test_pooling(op: str, opset: int, pads: str, ceil: int) -> None:
    dilations = (1,) if (op, opset) == ("AveragePool", 11) else (1, 2)
    for size, (kernel, stride), dilation in itertools.product((5, 6), ((2, 2), (2, 3), (3, 2)), dilations):
        if "SAME" in pads and kernel < stride:
            continue  # ONNX Runtime rejects most of these
        dilated = f"dilations = [{dilation}]," if dilation > 1 else ""
        text = f"""<ir_version: 8, opset_import: ["": {opset}]> g (float[1,1,{size}] x) => (float[A,B,C] y)
            {{ y = {op} <kernel_shape = [{kernel}], strides = [{stride}], {dilated}
            ceil_mode = {ceil}, {pads}> (x) }}"""
        shape = computed(parse(text), np.zeros((1, 1, size), np.float32))
        assert sizes(parse(text)) == (shape, shape), text


def test_nodes_of_nested_graphs_and_functions() -> None:
    pool = "MaxPool <kernel_shape = [1], strides = [2], ceil_mode = 1>"
    model = parse(f"""<ir_version: 8, opset_import: ["": 12, "f": 1]>
        g (float[1,1,8] x, bool c) => (float[A,B,C] y, float[D,E,F] z) {{ y = f.pooled(x)
        z = If (c) <then_branch = t () => (float[G,H,I] p) {{ p, at = {pool} (x) }},
            else_branch = e () => (float[J,K,L] q) {{ q = Relu(x) }}> }}
        <domain: "f", opset_import: ["": 12]> pooled (a) => (b) {{ h = {pool} (a)  b = Relu(h) }}""")
    infer_shapes(model)
    types = {value.name: str(value.type) for graph in model.graph.all_graphs() for value in graph.values()}
    assert types["y"] == types["p"] == "float32[1,1,4]"
    assert types["at"] == "int64[1,1,4]"


def test_raised_from_an_opset_with_other_rules() -> None:
    text = """<ir_version: 8, opset_import: ["": 12]> g (float[1,1,8] x) => (float[1,A] y) {
        h = MaxPool <kernel_shape = [1], strides = [2], ceil_mode = 1> (x)
        y = ReduceLogSumExp <axes = [1], keepdims = 0> (h) }"""
    model, _ = graphopt.optimize(parse(text), "O0")
    assert model.opset > 18
    assert model.graph.outputs[0].shape == (1, 4)


NEGATIVE = """
from graphopt.ir import infer_shapes
from graphopt.ir.text import parse
for body in (
    "a = MaxPool <kernel_shape = [5]> (x)",
    "a, i = MaxPool <kernel_shape = [5], ceil_mode = 1> (x)",
    "a = Conv(x, w)",
    "a = ConvTranspose <pads = [3,3]> (x, v)",
    "a = Pad(x, p)",
    "a = If (q) <then_branch = t () => (float[A,B,C] d) { c = Conv(x, w)  d = Slice(c, s, e, k) },"
    " else_branch = f () => (float[A,B,C] g) { g = Conv(x, w) }>",
):
    model = parse('<ir_version: 8, opset_import: ["": 13]> g (float[1,1,2] x, bool q) => (float[A,B,C] y) '
        "<float[1,1,5] w = {1,2,3,4,5}, float[1,1,1] v = {1}, int64[6] p = {0,0,-2,0,0,-2}, int64[1] s = {1},"
        " int64[1] e = {2}, int64[1] k = {2}> { " + body + "  b = Slice(a, s, e, k)  y = Relu(b) }")
    infer_shapes(model)
    print(model.graph.outputs[0].type)
"""


def test_negative_sizes_do_not_end_the_process() -> None:
    """The inference of onnx 1.23 aborts at a Slice of something that is longer than its input."""
    done = subprocess.run([sys.executable, "-c", NEGATIVE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*["float32[1,1,C]"] * 5, "float32[A,B,C]"]
