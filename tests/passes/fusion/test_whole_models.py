"""The passes together, in the pipeline that `optimize` runs, on whole networks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from graphopt import io
from graphopt.ir import Model, infer_shapes
from graphopt.proof.oracle import Reference
from graphopt.proof.tolerance import Tolerance, compare
from graphopt.rewriting.passes import Rewriter
from graphopt.rewriting.pipeline import PassManager, Pipeline
from tests.helpers import model_of, ops
from tools.bert import make_bert

RNG = np.random.default_rng(0)


def optimized(model: Model, passes: str = "default") -> tuple[Model, Counter[str]]:
    """The model after a pipeline, and its near misses."""
    result = model.copy()
    report = PassManager(Pipeline.parse(passes)).run(result)
    return result, Counter(reason for step in report.steps for reason in step.misses)


def agree(before: Model, after: Model, inputs: dict[str, np.ndarray], allowed: float = 1e-4) -> None:
    with Reference(before) as reference, Reference(after) as rewritten:
        comparison = compare(reference.run(inputs), rewritten.run(inputs), Tolerance.uniform(allowed))
    assert comparison.ok, str(comparison)


@pytest.fixture(scope="module")
def bert() -> Model:
    return io.load(make_bert(layers=12, hidden=48, heads=12, vocabulary=100, positions=40))


def test_every_pattern_of_an_encoder_is_found(bert):
    result, _ = optimized(bert)
    found = ops(result)
    assert found["Attention"] == 12
    assert found["LayerNormalization"] == 25
    assert found["Gelu"] == 12
    assert not {"Softmax", "Erf", "Pow", "Sqrt", "ReduceMean"} & set(found)
    # Queries, keys and values; the output of attention; two of the perceptron.
    assert found["MatMul"] == 12 * 4
    assert found["Split"] == 12
    for batch, length in ((1, 1), (2, 7), (3, 40)):
        mask = (RNG.random((batch, length)) < 0.8).astype(np.int64)
        mask[:, 0] = 1
        ids = RNG.integers(0, 100, size=(batch, length))
        agree(bert, result, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})


def test_an_encoder_of_a_fixed_length():
    model = io.load(make_bert(layers=2, hidden=48, heads=4, vocabulary=100, positions=40, sequence=9))
    found = ops(optimized(model)[0])
    assert (found["Attention"], found["LayerNormalization"], found["Gelu"], found["MatMul"]) == (2, 5, 2, 8)


def test_the_report_says_why_an_attention_did_not_fuse(bert):
    model = bert.copy()
    infer_shapes(model)
    weights = next(node.output for node in model.graph.nodes if node.op == "Softmax")
    Rewriter(model.graph).set_outputs((*model.graph.outputs, weights))
    result, misses = optimized(model)
    assert ops(result)["Attention"] == 11
    assert misses["an intermediate result is used elsewhere or is an output"] == 1


MOBILE = """g (float[N,3,H,W] x) => (float[N,10] y) {
    p = Pad(x, pads)
    c1 = Conv <strides = [2, 2]> (p, w1)
    n1 = BatchNormalization(c1, g1, b1, m1, v1)
    a1 = Add(n1, three)  k1 = Clip(a1, zero, six)  d1 = Div(k1, six)  h1 = Mul(n1, d1)
    c2 = Conv <group = 8, pads = [1, 1, 1, 1]> (h1, w2)
    n2 = BatchNormalization(c2, g1, b1, m1, v1)
    s2 = Sigmoid(n2)  h2 = Mul(n2, s2)
    q = GlobalAveragePool(h2)  e = Conv(q, w3)  z = HardSigmoid <alpha = 0.16666667, beta = 0.5> (e)  r = Mul(h2, z)
    t = Mul(r, scale)  u = Add(t, shift)  c4 = Conv(u, w3)
    o = GlobalAveragePool(c4)  f = Flatten(o)  l = MatMul(f, w5)  y = Add(l, b5)
}"""


def mobile() -> Model:
    weights = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "w1": RNG.normal(size=(8, 3, 3, 3)),
        "w2": RNG.normal(size=(8, 1, 3, 3)),
        "w3": RNG.normal(size=(8, 8, 1, 1)),
        "w5": RNG.normal(size=(8, 10)),
        "b5": RNG.normal(size=10),
        "g1": RNG.normal(size=8),
        "b1": RNG.normal(size=8),
        "m1": RNG.normal(size=8),
        "v1": RNG.uniform(0.5, 2, size=8),
        "scale": np.array([1.5]),
        "shift": np.array([-0.5]),
        "zero": np.array(0),
        "three": np.array(3),
        "six": np.array(6),
    }
    return model_of(MOBILE, {k: v if k == "pads" else v.astype(np.float32) for k, v in weights.items()})


def test_every_pattern_of_a_mobile_network_is_found():
    model = mobile()
    result, _ = optimized(model)
    expected = {"Conv": 4, "HardSwish": 1, "Swish": 1, "HardSigmoid": 1, "Mul": 1, "GlobalAveragePool": 2}
    assert ops(result) == expected | {"Flatten": 1, "Gemm": 1}
    agree(model, result, {"x": RNG.normal(size=(2, 3, 17, 12)).astype(np.float32)})
    assert all(node.origin for node in result.graph.nodes)


DECODER = """g (float16[B,S,32] x) => (float16[B,S,32] y) {
    f = Cast <to = 1> (x)  p = Pow(f, two)  v = ReduceMean(p, last)  a = Add(v, eps)  r = Sqrt(a)
    i = Reciprocal(r)  n = Mul(f, i)  h = Cast <to = 10> (n)  x1 = Mul(norm, h)
    q0 = MatMul(x1, wq)  k0 = MatMul(x1, wk)  v0 = MatMul(x1, wv)
    q1 = Reshape(q0, heads)  k1 = Reshape(k0, heads)  v1 = Reshape(v0, heads)
    q = Transpose <perm = [0, 2, 1, 3]> (q1)  k = Transpose <perm = [0, 2, 3, 1]> (k1)
    vv = Transpose <perm = [0, 2, 1, 3]> (v1)
    s = MatMul(q, k)  t = Mul(s, scale)  t32 = Cast <to = 1> (t)  w32 = Softmax(t32)  w = Cast <to = 10> (w32)
    o = MatMul(w, vv)  o1 = Transpose <perm = [0, 2, 1, 3]> (o)  o2 = Reshape(o1, flat)  o3 = MatMul(o2, wo)
    x2 = Add(x, o3)
    gate = MatMul(x2, wg)  up = MatMul(x2, wu)  sg = Sigmoid(gate)  silu = Mul(gate, sg)  m = Mul(silu, up)
    down = MatMul(m, wd)  y = Add(x2, down)
}"""


def test_every_pattern_of_a_decoder_in_half_precision_is_found():
    shapes = {"wq": (32, 32), "wk": (32, 32), "wv": (32, 32), "wo": (32, 32)}
    shapes |= {"wg": (32, 48), "wu": (32, 48), "wd": (48, 32), "norm": (32,)}
    weights = {name: (RNG.normal(size=shape) / 6).astype(np.float16) for name, shape in shapes.items()}
    weights |= {"two": np.array(2, np.float32), "eps": np.array(1e-5, np.float32), "scale": np.array(0.35, np.float16)}
    weights |= {"last": np.array([-1]), "heads": np.array([0, 0, 4, 8]), "flat": np.array([0, 0, 32])}
    model = model_of(DECODER, weights)
    result, _ = optimized(model)
    found = ops(result)
    assert (found["RMSNormalization"], found["Attention"], found["Swish"]) == (1, 1, 1)
    assert found["MatMul"] == 4  # queries, keys and values; the output; gate and up; down
    assert not {"Softmax", "Sigmoid", "Pow", "Cast"} & set(found)
    agree(model, result, {"x": RNG.normal(size=(2, 5, 32)).astype(np.float16)}, allowed=1e-2)
