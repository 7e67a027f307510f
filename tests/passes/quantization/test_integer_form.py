"""Whole quantized networks through the pipeline of CPUs: what kernels are given, and the distance to the original."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from graphopt.compression.evaluation import Evaluation
from graphopt.data.samples import Samples
from graphopt.driver import backend
from graphopt.driver.tuning import Tuning
from graphopt.hardware.target import load as load_target
from graphopt.ir import DType, Model, infer_shapes, verify
from graphopt.passes.quantization.quantize_static import QuantizeStatic
from graphopt.proof.oracle import Reference
from graphopt.rewriting.pipeline import PassManager, Pipeline
from tests.helpers import model_of

RNG = np.random.default_rng(0)
NETWORK = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[N,3,17,17] X) => (float[N,5] Y) <int64[2] flat = {0, -1}> {
    a = Conv<pads=[1,1,1,1], strides=[2,2]>(X, w1, b1)  r = Clip(a, zero, six)  p = MaxPool<kernel_shape=[2,2]>(r)
    c = Conv<pads=[1,1,1,1], group=16>(p, w2, b2)  s = Add(c, p)  t = Relu(s)
    d = Conv(t, w3, b3)  u = Relu(d)  e = Concat<axis=1>(u, t)  f = Conv<pads=[0,0,1,1]>(e, w4)
    h = AveragePool<kernel_shape=[3,3]>(f)  i = LeakyRelu(h)  j = Conv(i, w5, b3)
    m = GlobalAveragePool(j)  k = Reshape(m, flat)  Y = Gemm<transB=1>(k, w6, b6) }"""
SHAPES = {
    "w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 1, 3, 3), "b2": (16,), "w3": (16, 16, 1, 1), "b3": (16,),
    "w4": (20, 32, 2, 2), "w5": (16, 20, 1, 1), "w6": (5, 16), "b6": (5,),
}  # fmt: skip
LAYOUT = Pipeline.parse("layout")


def quantized(activations: str, symmetric: bool, per_channel: bool) -> tuple[Model, np.ndarray]:
    weights = {name: RNG.normal(size=shape, scale=0.3).astype(np.float32) for name, shape in SHAPES.items()}
    weights |= {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    model = model_of(NETWORK, weights)
    images = RNG.normal(size=(32, 3, 17, 17)).astype(np.float32)
    samples = Samples([{"X": images[i : i + 8]} for i in range(0, 32, 8)], model)
    options = QuantizeStatic(activations=activations, symmetric=symmetric, per_channel=per_channel)
    PassManager(Pipeline.of(options), evaluation=Evaluation(samples=samples, original=model.copy())).run(model)
    return model, images


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(("activations", "symmetric"), [("uint8", False), ("int8", False), ("int8", True)])
@pytest.mark.parametrize("name", ["x86:alderlake", "x86:znver4", "arm:cortex-a76"])
def test_a_network(name: str, activations: str, symmetric: bool, per_channel: bool) -> None:
    model, images = quantized(activations, symmetric, per_channel)
    original = model.copy()
    PassManager(LAYOUT, target=load_target(name)).run(model)
    verify(model)
    found = Counter(node.op_type for node in model.graph.nodes)
    products = found["ConvInteger"] + found["BlockedConvInteger"], found["MatMulInteger"]
    assert products == (5, 1)
    assert not {"Conv", "BlockedConv", "Gemm", "MatMul", "Div"} & set(found)
    assert symmetric or not {"Relu", "Clip"} & set(found)  # saturation does the same
    for node in model.graph.nodes:
        if node.op == "QuantizeLinear" and node.inputs[0] not in model.graph.inputs:
            scale = node.inputs[1]
            assert scale is not None
            assert scale.constant is not None
            assert scale.constant.numpy() == 1
            assert node.output.dtype is DType.UINT8
    with Reference(original) as before, Reference(model) as after:
        expected, result = before.run({"X": images})["Y"], after.run({"X": images})["Y"]
    assert np.abs(result - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["x86", "x86:v4"])
def test_a_network_without_dot_products(name: str) -> None:
    """Its first and its depthwise convolution, faster on floats there, leave the results as close as integers do."""
    model, images = quantized("uint8", False, True)
    original = model.copy()
    target = load_target(name)
    latencies = backend.load().latencies(target, Tuning(use_records=False))
    PassManager(LAYOUT, target=target, latencies=latencies).run(model)
    verify(model)
    found = Counter(node.op_type for node in model.graph.nodes)
    assert found["ConvInteger"] + found["BlockedConvInteger"] == 3
    assert sum(found[op] for op in ("Conv", "BlockedConv", "ConvToBlocked")) == 2
    with Reference(original) as before, Reference(model) as after:
        expected, result = before.run({"X": images})["Y"], after.run({"X": images})["Y"]
    assert np.abs(result - expected).max() < 0.02 * np.abs(expected).max()


def test_a_second_run_changes_nothing() -> None:
    model, _ = quantized("int8", False, True)
    PassManager(LAYOUT, target=load_target("x86:v4")).run(model)
    before = Counter(node.op for node in model.graph.nodes)
    infer_shapes(model)
    PassManager(LAYOUT, target=load_target("x86:v4")).run(model)
    assert Counter(node.op for node in model.graph.nodes) == before


def test_a_transposed_convolution() -> None:
    """Is a convolution of integers, which are rounded before they are moved to their positions."""
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[1,16,5,6] X) => (float[1,16,10,12] Y) {
        a = ConvTranspose <strides=[2,2]> (X, w, b)  r = Relu(a)  Y = Conv <pads=[1,1,1,1]> (r, v) }"""
    shapes = {"w": (16, 16, 2, 2), "b": (16,), "v": (16, 16, 3, 3)}
    weights = {name: RNG.normal(size=shape, scale=0.3).astype(np.float32) for name, shape in shapes.items()}
    model = model_of(text, weights)
    images = RNG.normal(size=(4, 16, 5, 6)).astype(np.float32)
    samples = Samples([{"X": image[None]} for image in images], model)
    evaluation = Evaluation(samples=samples, original=model.copy())
    PassManager(Pipeline.of(QuantizeStatic()), evaluation=evaluation).run(model)
    original = model.copy()
    PassManager(LAYOUT, target=load_target("x86:alderlake")).run(model)
    found = Counter(node.op_type for node in model.graph.nodes)
    assert found["BlockedConvInteger"] == 2
    assert not {"Conv", "BlockedConv", "ConvTranspose", "Relu"} & set(found)
    assert {node.output.dtype for node in model.graph.nodes if node.op == "Transpose"} == {DType.UINT8}
    with Reference(original) as before, Reference(model) as after:
        expected, result = before.run({"X": images[:1]})["Y"], after.run({"X": images[:1]})["Y"]
    assert np.abs(result - expected).max() < 0.02 * np.abs(expected).max()
