"""equalize-layers: what it reaches, what it leaves alone, and what it saves where channels differ in size."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.quantization.equalize_layers import EqualizeLayers
from tests.helpers import check_declines, check_pass, model_of
from tests.passes.quantization.measuring import OPSET, Feed, array, feeds, noise, random, run

IMAGES = "g (float[2,3,8,8] X) => (float[A,B,C,D] Y)"
CONV = "Conv<pads=[1,1,1,1]>"
DEPTHWISE = "Conv<group=8, pads=[1,1,1,1]>"
SHAPES = {"w": (8, 3, 3, 3), "b": (8,), "d": (8, 1, 3, 3), "c": (8,), "v": (6, 8, 3, 3), "e": (8, 8, 3, 3)}


def uneven(names: str, **shapes: tuple[int, ...]) -> Feed:
    """Random weights, whose channels differ in size by factors of up to a thousand where they are named."""
    made = random(0, **shapes)
    for name in names:
        made[name] *= (
            np.geomspace(0.03, 30, len(made[name])).astype(np.float32).reshape(-1, *[1] * (made[name].ndim - 1))
        )
    return made


CASES = {
    "relu": (f"{IMAGES} {{ a = {CONV}(X, w, b)  r = Relu(a)  Y = {CONV}(r, v) }}", 1),
    "nothing between": (f"{IMAGES} {{ a = {CONV}(X, w)  Y = {CONV}(a, v) }}", 1),
    "leaky": (f"{IMAGES} {{ a = {CONV}(X, w, b)  r = LeakyRelu(a)  Y = {CONV}(r, v) }}", 1),
    "slopes": (f"{IMAGES} {{ a = {CONV}(X, w, b)  r = PRelu(a, slope)  Y = {CONV}(r, v) }}", 1),
    "pool": (
        f"{IMAGES} {{ a = {CONV}(X, w, b)  p = MaxPool<kernel_shape=[2,2]>(a)  "
        f"q = AveragePool<kernel_shape=[2,2]>(p)  Y = {CONV}(q, v) }}",
        1,
    ),
    "depthwise": (
        f"{IMAGES} {{ a = {CONV}(X, w, b)  r = Relu(a)  f = {DEPTHWISE}(r, d, c)  s = Relu(f)  Y = {CONV}(s, v) }}",
        2,
    ),
    "groups": (f"{IMAGES} {{ a = {CONV}(X, w, b)  r = Relu(a)  Y = Conv<group=2>(r, g) }}", 1),
    "residual": (
        f"{IMAGES} {{ a = {CONV}(X, w, b)  r = Relu(a)  f = {CONV}(r, e)  s = Add(f, r)  t = Relu(s)  "
        f"Y = {CONV}(t, v) }}",
        1,
    ),
    "offset": (f"{IMAGES} {{ a = {CONV}(X, w)  o = Add(a, one)  r = Relu(o)  Y = {CONV}(r, v) }}", 1),
    "head": (
        f"g (float[2,3,8,8] X) => (float[A,B] Y) {{ a = {CONV}(X, w, b)  r = Relu(a)  p = GlobalAveragePool(r)  "
        "f = Flatten(p)  Y = Gemm<transB=1>(f, h) }",
        1,
    ),
    "matmuls": (
        "g (float[2,5,3] X) => (float[A,B,C] Y) { a = MatMul(X, m)  s = Add(c, a)  r = Relu(s)  Y = MatMul(r, n) }",
        1,
    ),
    "gemms": ("g (float[5,3] X) => (float[A,B] Y) { a = Gemm(X, m, c)  r = Relu(a)  Y = Gemm(r, n) }", 1),
}


@pytest.mark.parametrize("name", CASES)
def test_results_stay_the_same(name: str) -> None:
    text, regions = CASES[name]
    shapes = {**SHAPES, "slope": (8, 1, 1), "g": (4, 4, 3, 3), "h": (5, 8), "m": (3, 8), "n": (8, 6), "one": (1,)}
    used = {
        key: shape for key, shape in shapes.items() if f" {key})" in text or f" {key}," in text or f"({key}," in text
    }
    check_pass(
        EqualizeLayers(),
        f"{OPSET} {text}",
        counts={"regions equalized": regions},
        weights=uneven("w" if "w" in used else "", **used),
    )


DECLINED = {
    "Clip(a, zero, six)": "a Clip is between products",
    "HardSwish(a)": "a HardSwish is between products",
    "Softmax(a)": "a Softmax is between products",
    "Mul(a, six)": "a Mul is between products",
    "Conv(a, a)": "a Conv reads it in another way",
}


@pytest.mark.parametrize("body", DECLINED)
def test_what_is_left_alone(body: str) -> None:
    text = f"{OPSET} g (float[2,3,8,8] X) => (float[A,B,C,D] Y) {{ a = {CONV}(X, w)  r = {body}  Y = {CONV}(r, v) }}"
    made = random(0, w=(8, 3, 3, 3), v=(6, 2 if body == "Conv(a, a)" else 8, 3, 3))
    constants = {**made, "zero": np.float32(0), "six": np.float32(6)}
    used = {name: value for name, value in constants.items() if name in text.split("{", 1)[1]}
    check_declines(EqualizeLayers(), text, DECLINED[body], weights=used)


def test_results_of_the_model_are_left_alone() -> None:
    text = (
        f"{OPSET} g (float[2,3,8,8] X) => (float[A,B,C,D] Y, float[E,F,G,H] a) {{ a = {CONV}(X, w)  Y = {CONV}(a, v) }}"
    )
    check_declines(
        EqualizeLayers(),
        text,
        "it is an input or a result of the model",
        weights=random(0, w=(8, 3, 3, 3), v=(6, 8, 3, 3)),
    )


def test_weights_that_others_read_stay_theirs() -> None:
    text = f"{IMAGES} {{ a = {CONV}(X, w)  Z = {CONV}(X, w)  z = ReduceMax(Z)  b = {CONV}(a, v)  Y = Add(b, z) }}"
    check_pass(
        EqualizeLayers(),
        f"{OPSET} {text}",
        counts={"regions equalized": 1},
        weights=uneven("w", w=(8, 3, 3, 3), v=(6, 8, 3, 3)),
    )


def test_ranges_become_equal() -> None:
    text = f"{OPSET} {CASES['depthwise'][0]}"
    made = uneven("wd", **{k: SHAPES[k] for k in "wbdcv"})
    made["b"][:], made["c"][:] = 0, 0
    changed, _ = run(model_of(text, made), EqualizeLayers())
    one, two, three = (np.abs(array(node.inputs[1])) for node in changed.graph.nodes if node.op == "Conv")
    np.testing.assert_allclose(one.max((1, 2, 3)), two.max((1, 2, 3)), rtol=0.02)
    np.testing.assert_allclose(two.max((1, 2, 3)), three.max((0, 2, 3)), rtol=0.02)


def test_one_scale_for_all_weights_is_enough_after_it() -> None:
    """The trouble of MobileNets: a depthwise convolution whose channels differ by factors of a thousand."""
    made = uneven("wbdc", **{k: SHAPES[k] for k in "wbdcv"})
    made["v"] /= np.geomspace(1e-3, 1e3, 8).astype(np.float32).reshape(1, 8, 1, 1)
    model = model_of(f"{OPSET} {CASES['depthwise'][0]}", made)
    samples = feeds(16, X=(2, 3, 8, 8))
    static = "quantize-static{per_channel=false}"
    errors = [noise(model, run(model, passes, samples)[0], samples) for passes in (static, f"equalize-layers,{static}")]
    assert errors[0] > 0.3
    assert errors[1] < 0.05


def test_a_dead_channel_does_not_blow_up_the_activation() -> None:
    """Its weights are next to nothing, its bias is as large as the others: equal ranges would make that enormous."""
    made = random(0, **{k: SHAPES[k] for k in "wbv"})
    made["w"][2] *= 1e-9
    made["b"][2] = 0.3
    model = model_of(f"{OPSET} {CASES['relu'][0]}", made)
    changed, _ = run(model, EqualizeLayers())
    conv = next(iter(changed.graph.nodes))
    assert np.abs(array(conv.inputs[2])).max() <= np.abs(made["b"]).max() * 1.0001
    samples = feeds(8, X=(2, 3, 8, 8))
    for passes in ("quantize-static", "equalize-layers,quantize-static"):
        assert noise(model, run(model, f"{passes}{{per_channel=false}}", samples)[0], samples) < 0.03
