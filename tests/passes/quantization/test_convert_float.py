"""convert-float: what becomes float16, what stays float32, and that no value overflows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt import io
from graphopt.errors import InputError, PassError
from graphopt.ir import DType, Model
from graphopt.passes.quantization.convert_float import ConvertFloat
from tests.helpers import model_of
from tests.passes.quantization.measuring import OPSET, feeds, noise, random, run

NETWORK = f"""{OPSET} g (float[N,3,8,8] X) => (float[N,5] Y) <int64[2] flat = {{0, -1}}> {{
    a = Conv<pads=[1,1,1,1]>(X, w1, b1)  r = Relu(a)  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    c = Conv<pads=[1,1,1,1]>(p, w2, b2)  s = Add(c, p)  t = HardSwish(s)
    m = GlobalAveragePool(t)  f = Reshape(m, flat)  Y = Gemm<transB=1>(f, w3, b3) }}"""
WEIGHTS = random(0, w1=(8, 3, 3, 3), b1=(8,), w2=(8, 8, 3, 3), b2=(8,), w3=(5, 8), b3=(5,))


def types(model: Model) -> dict[str, DType | None]:
    """The type of the first result of each operator."""
    return {node.op: node.output.dtype for node in model.graph.nodes if node.op != "Cast"}


def test_a_whole_network(tmp_path: Any) -> None:
    model = model_of(NETWORK, WEIGHTS)
    samples = feeds(4, X=(2, 3, 8, 8))
    changed, report = run(model, "convert-float,eliminate-dead", samples)
    assert report.counts["convert-float/nodes in float16"] == 9
    assert [node.op for node in changed.graph.nodes].count("Cast") == 2  # of the input and of the result
    assert set(types(changed).values()) == {DType.FLOAT16}
    for optimize in (False, True):
        assert 0 < noise(model, changed, samples, optimize) < 2e-3
    io.save(changed, tmp_path / "half.onnx")
    assert noise(changed, io.load(tmp_path / "half.onnx"), samples) == 0


def test_what_overflows_stays_in_float32() -> None:
    """A scale of a thousand before and after: in float16, the values between would be infinite."""
    text = f"""{OPSET} g (float[N,32] X) => (float[N,32] Y) {{
        a = MatMul(X, w)  b = Mul(a, k)  c = Relu(b)  d = Div(c, k)  Y = MatMul(d, v) }}"""
    model = model_of(text, {**random(0, w=(32, 32), v=(32, 32)), "k": np.float32(60000)})
    samples = feeds(4, X=(3, 32))
    changed, report = run(model, ConvertFloat(), samples)
    found = types(changed)
    assert found == {"MatMul": DType.FLOAT16, "Mul": DType.FLOAT, "Relu": DType.FLOAT, "Div": DType.FLOAT}
    assert report.steps[0].misses == {
        f"{op}: its values come near the limits of float16": 1 for op in ("Mul", "Relu", "Div")
    }
    assert noise(model, changed, samples) < 2e-3


@pytest.mark.parametrize(
    ("body", "op"),
    [
        ("a = Add(X, tiny)  Y = Sqrt(a)", "Add"),
        ("a = Add(X, mask)  Y = Softmax(a)", "Add"),
        ("Y = LayerNormalization(X, one)", "LayerNormalization"),
        ("Y = ReduceMean<keepdims=1>(X, axes)", "ReduceMean"),
        ("Y = Pow(X, two)", "Pow"),
        ("a = Mul(X, X)  b = MatMul(a, w)  Y = Neg(b)", "Neg"),
    ],
)
def test_operators_that_stay_in_float32(body: str, op: str) -> None:
    constants = {
        **random(0, w=(32, 32)),
        "tiny": np.float32(1e-12),
        "mask": np.array([0.0] * 31 + [-3e38], np.float32),
        "one": np.ones(32, np.float32),
        "two": np.float32(2),
        "axes": np.array([1], np.int64),
    }
    used = {name: value for name, value in constants.items() if f" {name})" in body}
    columns = 1 if op == "ReduceMean" else 32
    model = model_of(
        f"{OPSET} g (float[N,32] X) => (float[N,{columns}] Y) {{ r = Relu(X)  {body.replace('(X', '(r')} }}", used
    )
    changed, _ = run(model, ConvertFloat(keep=("Neg",)), feeds(4, X=(3, 32)))
    assert types(changed)["Relu"] is DType.FLOAT16
    assert types(changed)[op] is DType.FLOAT


def test_arguments_that_must_be_float32_stay() -> None:
    text = f"""{OPSET} g (float[1,3,4,4] X) => (float[1,3,8,8] Y, int64[A,B] I) {{
        r = Relu(X)  Y = Resize<mode="linear">(r, none, scales)  f = Flatten(r)  v, I = TopK(f, k) }}"""
    constants = {"scales": np.array([1, 1, 2, 2], np.float32), "k": np.array([3], np.int64)}
    constants["none"] = np.zeros(0, np.float32)
    model = model_of(text, constants)
    samples = feeds(3, X=(1, 3, 4, 4))
    changed, _ = run(model, ConvertFloat(), samples)
    assert types(changed)["Resize"] is DType.FLOAT16
    (resize,) = (node for node in changed.graph.nodes if node.op == "Resize")
    assert resize.inputs[2] is not None
    assert resize.inputs[2].dtype is DType.FLOAT


def test_values_that_nested_graphs_read() -> None:
    text = f"""{OPSET} g (float[4] X, bool c) => (float[4] Y) {{
        r = Relu(X)  z = If(c) <then_branch = t () => (float[4] u) {{ u = Neg(r) }},
                                else_branch = e () => (float[4] v) {{ v = Identity(r) }}>  Y = Mul(z, r) }}"""
    model = model_of(text)
    samples = [
        {"X": np.random.default_rng(i).normal(size=4).astype(np.float32), "c": np.array(i % 2 > 0)} for i in range(4)
    ]
    changed, _ = run(model, ConvertFloat(), samples)
    assert types(changed)["Relu"] is DType.FLOAT16
    assert noise(model, changed, samples) < 2e-3


def test_weights_in_bfloat16(tmp_path: Any) -> None:
    model = model_of(NETWORK, WEIGHTS)
    samples = feeds(4, X=(2, 3, 8, 8))
    changed, report = run(model, "convert-float{to=bfloat16},eliminate-dead")
    assert report.counts["convert-float/products with weights in bfloat16"] == 1
    assert report.misses["convert-float", "it has few weights"] == 2
    assert 1e-4 < noise(model, changed, samples) < 1e-2
    io.save(changed, tmp_path / "half.onnx")
    assert noise(changed, io.load(tmp_path / "half.onnx"), samples) == 0


def test_nothing_to_convert() -> None:
    model = model_of(f"{OPSET} g (float[4,4] X) => (float[4,4] Y) {{ Y = Relu(X) }}")
    with pytest.raises(PassError, match=r"nothing to convert .*left alone"):
        run(model, ConvertFloat(keep=("Relu",)), feeds(1, X=(4, 4)))
    with pytest.raises(PassError, match=r"nothing to convert .*no floats"):
        run(model, ConvertFloat(to="bfloat16"))


def test_it_needs_samples() -> None:
    with pytest.raises(InputError, match="needs samples"):
        run(model_of(NETWORK, WEIGHTS), ConvertFloat())


@pytest.mark.parametrize("options", [{"to": "float8"}, {"keep": ("re:(",)}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|no regular expression"):
        ConvertFloat(**options)
