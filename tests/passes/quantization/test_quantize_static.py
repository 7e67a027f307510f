"""quantize-static: what becomes integers, with which scales, and how far the results are from those of floats."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnxruntime
import pytest

from graphopt import io
from graphopt.cli.demo import MODEL as DEMO
from graphopt.cli.demo import load_images
from graphopt.compression.evaluation import Evaluation
from graphopt.data.samples import Samples
from graphopt.driver.optimizing import optimize
from graphopt.errors import GraphOptError, InputError, PassError
from graphopt.ir import Model, Node, Value
from graphopt.passes.quantization.quantize_static import QuantizeStatic
from graphopt.proof.oracle import Reference
from graphopt.rewriting.pipeline import PassManager, Pipeline
from tests.helpers import model_of

RNG = np.random.default_rng(0)
OPSET = '<ir_version: 10, opset_import: ["" : 21]>'
RESIDUAL = f"""{OPSET} g (float[N,3,8,8] X) => (float[N,5] Y) <int64[2] flat = {{0, -1}}> {{
    a = Conv<pads=[1,1,1,1]>(X, w1, b1)  r = Relu(a)  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    c = Conv<pads=[1,1,1,1]>(p, w2, b2)  s = Add(c, p)  t = Relu(s)
    m = GlobalAveragePool(t)  f = Reshape(m, flat)  Y = Gemm<transB=1>(f, w3, b3) }}"""


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: RNG.normal(size=shape, scale=0.3).astype(np.float32) for name, shape in shapes.items()}


WEIGHTS = weights(w1=(8, 3, 3, 3), b1=(8,), w2=(8, 8, 3, 3), b2=(8,), w3=(5, 8), b3=(5,))


def samples(model: Model, count: int = 8, **shapes: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    shapes = shapes or {"X": (2, 3, 8, 8)}
    return [{name: RNG.normal(size=s).astype(np.float32) for name, s in shapes.items()} for _ in range(count)]


def quantized(model: Model, feeds: list[dict[str, np.ndarray]], **options: Any) -> tuple[Model, Any]:
    changed = model.copy()
    evaluation = Evaluation(samples=Samples(feeds, model), original=model)
    report = PassManager(Pipeline.of(QuantizeStatic(**options)), evaluation=evaluation).run(changed)
    return changed, report.steps[0]


def noise(model: Model, changed: Model, feeds: list[dict[str, np.ndarray]]) -> float:
    """The error of the results relative to their size (root mean square)."""
    with Reference(model) as before, Reference(changed) as after:
        pairs = [(before.run(feed), after.run(feed)) for feed in feeds]
    wanted = np.concatenate([np.concatenate([v.ravel() for v in b.values()]) for b, _ in pairs])
    found = np.concatenate([np.concatenate([v.ravel() for v in a.values()]) for _, a in pairs])
    return float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))


def pair(model: Model, name: str) -> Node:
    """The QuantizeLinear of a value."""
    value = model.graph.find(name)
    assert value is not None
    (node,) = (use.node for use in value.uses if use.node.op == "QuantizeLinear")
    return node


def number(value: Value | None) -> np.ndarray:
    assert value is not None
    assert value.constant is not None
    return value.constant.numpy()


def test_a_residual_network() -> None:
    model = model_of(RESIDUAL, WEIGHTS)
    feeds = samples(model)
    changed, step = quantized(model, feeds)
    assert step.counts["products quantized"] == 3
    found = Counter(node.op for node in changed.graph.nodes)
    rounded = ("X", "r", "p", "c", "t", "m", "f")  # neither a, before the Relu, nor s, nor the results
    assert found["QuantizeLinear"] == len(rounded)
    for name in rounded:
        pair(changed, name)
    assert found["DequantizeLinear"] == len(rounded) + 3 + 3  # with weights and biases
    assert 0 < noise(model, changed, samples(model)) < 0.02


def test_values_that_are_only_moved_keep_their_scale() -> None:
    changed, _ = quantized(model := model_of(RESIDUAL, WEIGHTS), samples(model))
    for one, other in (("r", "p"), ("m", "f")):
        for place in (1, 2):
            assert number(pair(changed, one).inputs[place]) == number(pair(changed, other).inputs[place])
    assert number(pair(changed, "r").inputs[1]) != number(pair(changed, "c").inputs[1])


def test_the_same_parameters_are_stored_once() -> None:
    changed, _ = quantized(model := model_of(RESIDUAL, WEIGHTS), samples(model))
    found = [value.tensor.numpy() for value in changed.graph.initializers.values() if value.tensor and value.has_uses]
    stored = Counter((array.dtype.name, array.shape, array.tobytes()) for array in found if array.dtype != np.int64)
    assert set(stored.values()) == {1}


def test_the_demo_takes_little_more_than_a_quarter() -> None:
    images, _ = load_images()
    feeds = [{"image": images[i : i + 1]} for i in range(8)]
    changed, _ = optimize(DEMO, "quantize", samples=feeds)
    assert io.to_proto(changed).ByteSize() <= 0.27 * DEMO.stat().st_size


def test_onnx_runtime_computes_it_on_integers(tmp_path: Any) -> None:
    changed, _ = quantized(model := model_of(RESIDUAL, WEIGHTS), samples(model))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(io.to_proto(changed).SerializeToString(), options)
    found = Counter(node.op_type for node in io.load(tmp_path / "optimized.onnx").graph.nodes)
    assert found["QLinearConv"] == 2
    assert found["QGemm"] == 1
    assert found["Conv"] == found["Gemm"] == found["Relu"] == 0


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 0.02),
        ({"activations": "int8", "symmetric": True}, 0.02),
        ({"calibration": "min-max", "weights": "min-max"}, 0.02),
        ({"calibration": "entropy"}, 0.05),
        ({"calibration": "percentile", "percentile": 99.9}, 0.05),
        ({"calibration": "moving-average"}, 0.05),
        ({"per_channel": False}, 0.04),
        ({"power_of_two": True}, 0.05),
        ({"reduce_range": True}, 0.03),
    ],
)
def test_options(options: dict[str, Any], most: float) -> None:
    model = model_of(RESIDUAL, WEIGHTS)
    feeds = samples(model, 16)
    changed, _ = quantized(model, feeds, **options)
    assert 0 < noise(model, changed, feeds) < most
    for node in changed.graph.nodes:
        stored = number(node.inputs[0]) if node.op == "DequantizeLinear" and node.inputs[0].constant else np.zeros(1)
        assert np.abs(stored).max() <= 63 or stored.dtype != np.int8 or not options.get("reduce_range")
        if node.op == "QuantizeLinear":
            assert number(node.inputs[2]).dtype == options.get("activations", "uint8")
            scale = number(node.inputs[1])
            assert not options.get("power_of_two") or np.log2(scale) % 1 == 0
            assert not options.get("symmetric") or number(node.inputs[2]) == 0


PRODUCTS = {
    "grouped": ("Conv<group=2>(X, w)", {"w": (6, 2, 3, 3)}),
    "depthwise": ("Conv<group=4>(X, w, b)", {"w": (4, 1, 3, 3), "b": (4,)}),
    "transposed": ("ConvTranspose<strides=[2,2]>(X, w, b)", {"w": (4, 3, 2, 2), "b": (3,)}),
    "transposed in groups": ("ConvTranspose<group=2>(X, w)", {"w": (4, 3, 2, 2)}),
    "matmul": ("MatMul(X, w)", {"w": (8, 5)}),
    "batched matmul": ("MatMul(X, w)", {"w": (4, 8, 5)}),
}


@pytest.mark.parametrize("case", PRODUCTS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_products(case: str, per_channel: bool) -> None:
    body, shapes = PRODUCTS[case]
    model = model_of(f"{OPSET} g (float[N,4,8,8] X) => (float[N,A,B,C] Y) {{ Y = {body} }}", weights(**shapes))
    feeds = samples(model, X=(2, 4, 8, 8))
    changed, step = quantized(model, feeds, per_channel=per_channel)
    assert step.counts["products quantized"] == 1
    assert 0 < noise(model, changed, feeds) < 0.02


def test_channels_of_different_size_have_scales_of_their_own() -> None:
    sizes = 10.0 ** np.arange(-3, 1)
    text = f"{OPSET} g (float[N,4,8,8] X) => (float[N,4,8,8] Y) {{ Y = Conv<group=4>(X, w) }}"
    model = model_of(text, {"w": (np.ones((4, 1, 1, 1)) * sizes[:, None, None, None] * 0.77).astype(np.float32)})
    feeds = samples(model, X=(2, 4, 8, 8))
    changed, _ = quantized(model, feeds)
    (weight,) = (n for n in changed.graph.nodes if n.op == "DequantizeLinear" and n.inputs[0].constant is not None)
    np.testing.assert_allclose(number(weight.inputs[1]), sizes * 0.77 / 127, rtol=1e-6)


def test_weights_that_two_nodes_read_are_stored_once() -> None:
    text = f"""{OPSET} g (float[N,4] X) => (float[N,4] Y)
        {{ a = MatMul(X, w)  b = Relu(a)  Y = MatMul(b, w) }}"""
    changed, _ = quantized(model := model_of(text, weights(w=(4, 4))), samples(model, X=(3, 4)))
    one, other = (node for node in changed.graph.nodes if node.op == "MatMul")
    assert one.inputs[1] is other.inputs[1]


def test_a_sum_with_what_is_no_product_stays_a_float() -> None:
    """The residual stream of a transformer: it has a wide range, and every layer adds to it."""
    text = f"""{OPSET} g (float[N,4] X) => (float[N,4] Y)
        {{ n = Softmax(X)  a = MatMul(n, w)  s = Add(a, X)  m = Softmax(s)  b = MatMul(m, w)  Y = Add(b, s) }}"""
    changed, _ = quantized(model := model_of(text, weights(w=(4, 4))), samples(model, X=(3, 4)))
    assert [pair(changed, name).op for name in "nm"] == ["QuantizeLinear"] * 2
    assert Counter(node.op for node in changed.graph.nodes)["QuantizeLinear"] == 2


def test_a_bias_beyond_the_scale_of_its_sums_makes_that_larger() -> None:
    """A dead channel, as batch normalizations leave them: its weights are next to nothing beside its bias."""
    text = f"{OPSET} g (float[N,4] X) => (float[N,2] Y) {{ Y = Gemm(X, w, b) }}"
    tiny = np.full((4, 2), 1e-9, np.float32) * np.float32([1, 1e8])
    model = model_of(text, {"w": tiny, "b": np.array([1, 2], np.float32)})
    feeds = samples(model, X=(3, 4))
    for per_channel in (True, False):
        changed, step = quantized(model, feeds, per_channel=per_channel)
        assert not step.misses
        (node,) = (node for node in changed.graph.nodes if node.op == "Gemm")
        assert node.inputs[2] is not None
        assert node.inputs[2].producer is not None
        integers = number(node.inputs[2].producer.inputs[0])
        assert integers.dtype == np.int32
        assert np.abs(integers.astype(np.int64)).max() <= 2**30
        assert noise(model, changed, feeds) < 1e-2


def test_a_bias_beyond_a_power_of_two_stays_a_float() -> None:
    text = f"{OPSET} g (float[N,4] X) => (float[N,2] Y) {{ Y = Gemm(X, w, b) }}"
    model = model_of(text, {"w": np.full((4, 2), 1e-9, np.float32), "b": np.array([1, 2], np.float32)})
    feeds = samples(model, X=(3, 4))
    changed, step = quantized(model, feeds, power_of_two=True)
    assert any("bias is too large" in reason for reason in step.misses)
    assert noise(model, changed, feeds) < 1e-6


@pytest.mark.parametrize(("ignore", "left"), [(("Gemm",), 2), (("nobody",), 3), (("second*",), 2)])
def test_what_is_ignored_stays_a_float(ignore: tuple[str, ...], left: int) -> None:
    model = model_of(RESIDUAL.replace("c = Conv", "[second_conv] c = Conv"), WEIGHTS)
    _, step = quantized(model, samples(model), ignore=ignore)
    assert step.counts["products quantized"] == left


@pytest.mark.parametrize(
    ("body", "shapes", "reason"),
    [
        ("MatMul(X, X)", {}, "its weights are not constant"),
        ("Gemm<alpha=0.5>(X, w)", {"w": (4, 4)}, "it is scaled or transposed"),
        ("MatMul(X, w)", {"w": (4,)}, "its weights are a vector"),
        ("Relu(X)", {}, "no convolution or matmul"),
    ],
)
def test_nothing_to_quantize(body: str, shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    model = model_of(f"{OPSET} g (float[4,4] X) => (float[A,B] Y) {{ Y = {body} }}", weights(**shapes))
    with pytest.raises(PassError, match=f"nothing to quantize .*{reason}"):
        quantized(model, samples(model, X=(4, 4)))


def test_everything_ignored() -> None:
    with pytest.raises(PassError, match=r"nothing to quantize .*to be left alone"):
        quantized(model := model_of(RESIDUAL, WEIGHTS), samples(model), ignore=("*",))


def test_an_opset_without_scales_of_channels() -> None:
    model = model_of(RESIDUAL.replace(": 21", ": 11"), WEIGHTS)
    with pytest.raises(PassError, match="opset 11 has no scales"):
        quantized(model, samples(model))


def test_what_is_quantized_already() -> None:
    changed, _ = quantized(model := model_of(RESIDUAL, WEIGHTS), samples(model))
    with pytest.raises(PassError, match="is quantized already"):
        quantized(changed, samples(model))


def test_no_samples() -> None:
    with pytest.raises(InputError, match="needs samples"):
        PassManager(Pipeline.of(QuantizeStatic())).run(model_of(RESIDUAL, WEIGHTS))


@pytest.mark.parametrize(
    "options", [{"activations": "int4"}, {"weights": "entropy"}, {"calibration": "best"}, {"percentile": 120.0}]
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, GraphOptError)):
        QuantizeStatic(**options)
