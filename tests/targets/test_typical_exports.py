"""Small networks in the forms in which exporters write the usual architectures, compiled and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

import graphopt
from graphopt.errors import UnsupportedError
from tests.helpers import model_of
from tests.targets.lowering.support import Arrays, expected, noise


def check(text: str, *inputs: Arrays, weights: Arrays | None = None, tolerance: float = 1e-4) -> None:
    """Compile once through the default pipeline, and compare with ONNX Runtime for each set of inputs."""
    model = model_of(text, dict(weights or {}))
    artifact = graphopt.compile(model)
    for given in inputs:
        outputs = artifact.run(given)
        for value, want in zip(model.graph.outputs, expected(model, given), strict=True):
            have = outputs[value.name]
            assert (have.dtype, have.shape) == (want.dtype, want.shape), value.name
            if want.dtype.kind in "biu":
                np.testing.assert_array_equal(have, want, err_msg=value.name)
            else:
                top = np.abs(want).max(initial=1e-6)
                np.testing.assert_allclose(have, want, rtol=0, atol=tolerance * top, err_msg=value.name)


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Random weights, scaled so that values keep their size; those named `var...` and `gamma...` are positive."""
    rng = np.random.default_rng(0)
    result = {}
    for name, shape in shapes.items():
        array = rng.normal(size=shape) / max(1, np.prod(shape[1:])) ** 0.5
        result[name] = (np.abs(array) + 0.5 if name.startswith(("var", "gamma")) else array).astype(np.float32)
    return result


def test_mobilenet_block_with_squeeze_and_excite() -> None:
    """MobileNetV3: hard swish decomposed, batch norm after each convolution, a residual, a classifier; opset 11."""
    check(
        """<ir_version: 7, opset_import: ["" : 11]> net (float[N,3,H,W] x) => (float[N,5] y) {
        c1 = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1)  b1 = BatchNormalization(c1, gamma1, beta1, mean1, var1)
        three = Constant<value = float {3.0}>()  zero = Constant<value = float {0.0}>()
        six = Constant<value = float {6.0}>()
        s1 = Add(b1, three)  k1 = Clip(s1, zero, six)  d1 = Div(k1, six)  h1 = Mul(b1, d1)
        c2 = Conv<pads=[1,1,1,1], group=8>(h1, w2)  b2 = BatchNormalization(c2, gamma1, beta1, mean1, var1)
        r2 = Relu(b2)
        p = GlobalAveragePool(r2)  e1 = Conv(p, w3, b3)  e2 = Relu(e1)  e3 = Conv(e2, w4, b4)
        s2 = Add(e3, three)  k2 = Clip(s2, zero, six)  d2 = Div(k2, six)  m = Mul(d2, r2)
        c3 = Conv(m, w5)  b5 = BatchNormalization(c3, gamma1, beta1, mean1, var1)  sum = Add(h1, b5)
        g = ReduceMean<axes=[2,3], keepdims=0>(sum)  y = Gemm<transB=1>(g, w6, b6) }""",
        {"x": noise(2, 3, 16, 20)},
        {"x": noise(1, 3, 9, 8)},
        weights=weights(
            {"w1": (8, 3, 3, 3), "gamma1": (8,), "beta1": (8,), "mean1": (8,), "var1": (8,), "w2": (8, 1, 3, 3)}
            | {"w3": (2, 8, 1, 1), "b3": (2,), "w4": (8, 2, 1, 1), "b4": (8,), "w5": (8, 8, 1, 1)}
            | {"w6": (5, 8), "b6": (5,)}
        ),
    )


def test_resnet_of_opset_9() -> None:
    """Clip with attributes, Pad with attributes, a flattened head, and a view computed from Shape."""
    check(
        """<ir_version: 4, opset_import: ["" : 9]> net (float[N,3,16,16] x) => (float[N,4] y, float[N,1] top) {
        padded = Pad<pads=[0,0,1,1,0,0,1,1]>(x)  c1 = Conv<strides=[2,2]>(padded, w1, b1)
        r1 = Clip<min=0.0, max=6.0>(c1)  p = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r1)
        c2 = Conv<pads=[1,1,1,1]>(p, w2)  s = Sum(p, c2)  r2 = LeakyRelu<alpha=0.1>(s)
        u = Upsample<mode="nearest">(r2, scales)  a = AveragePool<kernel_shape=[8,8]>(u)
        shape = Shape(a)  zero = Constant<value = int64 {0}>()  n = Gather<axis=0>(shape, zero)
        n1 = Unsqueeze<axes=[0]>(n)  rest = Constant<value = int64[1] {-1}>()  to = Concat<axis=0>(n1, rest)
        f = Reshape(a, to)  g = Gemm<transB=1>(f, w3, b3)  y = Softmax<axis=1>(g)
        top, i = TopK<axis=1, k=1>(y) }""",
        {"x": noise(2, 3, 16, 16)},
        {"x": noise(1, 3, 16, 16)},
        weights={"scales": np.float32([1, 1, 2, 2])}
        | weights({"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "w3": (4, 8), "b3": (4,)}),
    )


def test_u_net_of_any_height_and_width() -> None:
    check(
        """<ir_version: 7, opset_import: ["" : 13]> net (float[N,3,H,W] x) => (float[N,2,h,w] y, int64[N,h,w] label) {
        a0 = Conv<pads=[1,1,1,1]>(x, w1, b1)  a = Relu(a0)
        d = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)  e0 = Conv<pads=[1,1,1,1]>(d, w2)  e = Relu(e0)
        d2 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(e)  f = Conv<pads=[1,1,1,1]>(d2, w3)
        u1 = ConvTranspose<strides=[2,2], kernel_shape=[2,2]>(f, w4, b4)  cat1 = Concat<axis=1>(u1, e)
        g = Conv<pads=[1,1,1,1]>(cat1, w5)
        shape = Shape(a)  two = Constant<value = int64[1] {2}>()  four = Constant<value = int64[1] {4}>()
        zero = Constant<value = int64[1] {0}>()
        hw = Slice(shape, two, four, zero)  gs = Shape(g)  nc = Slice(gs, zero, two, zero)  to = Concat<axis=0>(nc, hw)
        u2 = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(g, "", "", to)
        cat2 = Concat<axis=1>(u2, a)  z = Conv(cat2, w6)  y = Sigmoid(z)
        label = ArgMax<axis=1, keepdims=0>(z) }""".replace('(g, "", "", to)', "(g, , , to)"),
        {"x": noise(1, 3, 16, 24)},
        {"x": noise(2, 3, 8, 12)},
        weights=weights(
            {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (6, 4, 3, 3), "w3": (6, 6, 3, 3), "w4": (6, 6, 2, 2), "b4": (6,)}
            | {"w5": (4, 12, 3, 3), "w6": (2, 8, 1, 1)}
        ),
    )


def test_yolo_head() -> None:
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(1, 1, 4, 4, 2).astype(np.float32)
    anchors = np.float32([10, 13, 16, 30]).reshape(1, 2, 1, 1, 2)
    check(
        """<ir_version: 8, opset_import: ["" : 13]> net (float[N,8,4,4] x) => (float[N,32,7] y, float[N,2,4,4,7] raw) {
        c = Conv(x, w, b)  s = Shape(c)  i0 = Constant<value = int64[1] {0}>()  n = Gather<axis=0>(s, i0)
        rest = Constant<value = int64[4] {2,7,4,4}>()  to = Concat<axis=0>(n, rest)  r = Reshape(c, to)
        raw = Transpose<perm=[0,1,3,4,2]>(r)  g = Sigmoid(raw)
        parts = Constant<value = int64[3] {2,2,3}>()  xy, wh, conf = Split<axis=4>(g, parts)
        two = Constant<value_float=2.0>()  half = Constant<value_float=0.5>()  stride = Constant<value_float=8.0>()
        xy2 = Mul(xy, two)  xy3 = Sub(xy2, half)  xy4 = Add(xy3, grid)  xy5 = Mul(xy4, stride)
        wh2 = Mul(wh, two)  wh3 = Pow(wh2, two)  wh4 = Mul(wh3, anchors)
        all = Concat<axis=4>(xy5, wh4, conf)  flat = Constant<value = int64[3] {0,-1,7}>()
        last = Constant<value = int64[2] {-1,7}>()  to2 = Concat<axis=0>(n, last)  y = Reshape(all, to2) }""",
        {"x": noise(1, 8, 4, 4)},
        {"x": noise(3, 8, 4, 4)},
        weights={"grid": grid, "anchors": anchors, **weights({"w": (14, 8, 1, 1), "b": (14,)})},
    )


def test_vision_transformer() -> None:
    check(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[N,3,8,8] x) => (float[N,3] y) {
        p = Conv<strides=[4,4], kernel_shape=[4,4]>(x, wp, bp)  s = Shape(p)
        i0 = Constant<value = int64 {0}>()  n = Gather<axis=0>(s, i0)  z = Constant<value = int64[1] {0}>()
        n1 = Unsqueeze(n, z)  r1 = Constant<value = int64[2] {8,-1}>()  to = Concat<axis=0>(n1, r1)
        f = Reshape(p, to)  t = Transpose<perm=[0,2,1]>(f)
        m1 = Constant<value = int64[2] {-1,-1}>()  tok = Concat<axis=0>(n1, m1)  neg = Constant<value = int64 {-1}>()
        ones = ConstantOfShape<value = int64[1] {1}>(three)  minus = Mul(ones, neg)  eq = Equal(tok, minus)
        to2 = Where(eq, ones, tok)  cls = Expand(token, to2)  seq0 = Concat<axis=1>(cls, t)  seq = Add(seq0, pos)
        l = LayerNormalization<axis=-1, epsilon=1e-6>(seq, gamma, beta)
        qkv0 = MatMul(l, wqkv)  qkv1 = Add(qkv0, bqkv)  shp = Constant<value = int64[5] {0,0,3,2,4}>()
        qkv2 = Reshape(qkv1, shp)  qkv = Transpose<perm=[2,0,3,1,4]>(qkv2)
        i1 = Constant<value = int64 {1}>()  i2 = Constant<value = int64 {2}>()
        q = Gather<axis=0>(qkv, i0)  k = Gather<axis=0>(qkv, i1)  v = Gather<axis=0>(qkv, i2)
        kt = Transpose<perm=[0,1,3,2]>(k)  half = Constant<value_float=0.5>()  qs = Mul(q, half)
        a = MatMul(qs, kt)  sm = Softmax<axis=-1>(a)  o = MatMul(sm, v)  ot = Transpose<perm=[0,2,1,3]>(o)
        back = Constant<value = int64[3] {0,0,8}>()  of = Reshape(ot, back)  proj = MatMul(of, wo)
        res = Add(seq, proj)  first = Gather<axis=1>(res, i0)  y = Gemm(first, wh, bh) }""",
        {"x": noise(1, 3, 8, 8)},
        {"x": noise(3, 3, 8, 8)},
        weights={"three": np.int64([3])}
        | weights(
            {"wp": (8, 3, 4, 4), "bp": (8,), "token": (1, 1, 8), "pos": (1, 5, 8), "gamma": (8,), "beta": (8,)}
            | {"wqkv": (8, 24), "bqkv": (24,), "wo": (8, 8), "wh": (8, 3), "bh": (3,)}
        ),
    )


GPT = """<ir_version: 8, opset_import: ["" : 14]>
net (int64[B,S] ids, float[B,2,P,4] past_key, float[B,2,P,4] past_value)
=> (float[B,S,11] logits, float[B,2,T,4] key, float[B,2,T,4] value) {
i0 = Constant<value = int64 {0}>()  i1 = Constant<value = int64 {1}>()  i2 = Constant<value = int64 {2}>()
z = Constant<value = int64[1] {0}>()
ps = Shape(past_key)  p = Gather<axis=0>(ps, i2)  ss = Shape(ids)  s = Gather<axis=0>(ss, i1)
total = Add(p, s)  positions = Range(p, total, i1)  pe = Gather(wpe, positions)
te = Gather(wte, ids)  h = Add(te, pe)
m = ReduceMean<axes=[-1]>(h)  c = Sub(h, m)  two = Constant<value_float=2.0>()  sq = Pow(c, two)
var = ReduceMean<axes=[-1]>(sq)  eps = Constant<value_float=1e-5>()  ve = Add(var, eps)  sd = Sqrt(ve)
nrm = Div(c, sd)  ng = Mul(nrm, gamma)  x = Add(ng, beta)
qkv0 = MatMul(x, wqkv)  qkv = Add(qkv0, bqkv)  q0, k0, v0 = Split<axis=2>(qkv, eights)
heads = Constant<value = int64[4] {0,0,2,4}>()
q1 = Reshape(q0, heads)  q = Transpose<perm=[0,2,1,3]>(q1)
k1 = Reshape(k0, heads)  k2 = Transpose<perm=[0,2,1,3]>(k1)  key = Concat<axis=-2>(past_key, k2)
v1 = Reshape(v0, heads)  v2 = Transpose<perm=[0,2,1,3]>(v1)  value = Concat<axis=-2>(past_value, v2)
kt = Transpose<perm=[0,1,3,2]>(key)  a0 = MatMul(q, kt)  a = Div(a0, two)
t1 = Unsqueeze(total, z)  tt = Concat<axis=0>(t1, t1)
full = ConstantOfShape<value = bool[1] {1}>(tt)  tril0 = Cast<to=1>(full)  tril1 = Trilu<upper=0>(tril0)
tril = Cast<to=9>(tril1)  p1 = Unsqueeze(p, z)  mask = Slice(tril, p1, t1, z)
low = Constant<value_float=-3.4e38>()  am = Where(mask, a, low)  sm = Softmax<axis=-1>(am)  o = MatMul(sm, value)
ot = Transpose<perm=[0,2,1,3]>(o)  flat = Constant<value = int64[3] {0,0,8}>()  of = Reshape(ot, flat)
pr = MatMul(of, wo)  r = Add(h, pr)  up = MatMul(r, wu)
half = Constant<value_float=0.5>()  one = Constant<value_float=1.0>()  cc = Constant<value_float=0.044715>()
k3 = Constant<value = float {3.0}>()  rt = Constant<value_float=0.7978845608>()
g1 = Pow(up, k3)  g2 = Mul(g1, cc)  g3 = Add(up, g2)  g4 = Mul(g3, rt)  g5 = Tanh(g4)  g6 = Add(g5, one)
g7 = Mul(up, half)  act = Mul(g7, g6)  down = MatMul(act, wd)  out = Add(r, down)
wt = Transpose<perm=[1,0]>(wte)  logits = MatMul(out, wt) }"""


def test_gpt_block_with_a_cache() -> None:
    """The first step has an empty cache, later ones are one token long."""

    def step(batch: int, tokens: int, past: int) -> Arrays:
        ids = np.random.default_rng(0).integers(0, 11, (batch, tokens))
        return {"ids": ids, "past_key": noise(batch, 2, past, 4), "past_value": noise(batch, 2, past, 4, seed=1)}

    check(
        GPT,
        step(1, 5, 0),
        step(2, 1, 6),
        step(1, 3, 2),
        weights={"eights": np.int64([8, 8, 8])}
        | weights(
            {"wte": (11, 8), "wpe": (16, 8), "gamma": (8,), "beta": (8,), "wqkv": (8, 24), "bqkv": (24,)}
            | {"wo": (8, 8), "wu": (8, 16), "wd": (16, 8)}
        ),
    )


LLAMA = """<ir_version: 8, opset_import: ["" : 17]>
net (float[B,S,8] h, int64[B,S] attention_mask, int64[B,S] position_ids) => (float[B,S,8] y) {
two = Constant<value_float=2.0>()  eps = Constant<value_float=1e-6>()  one = Constant<value_float=1.0>()
sq = Pow(h, two)  ms = ReduceMean<axes=[-1]>(sq)  me = Add(ms, eps)  rt = Sqrt(me)  inv = Div(one, rt)
n = Mul(h, inv)  x = Mul(gamma, n)
heads = Constant<value = int64[4] {0,0,2,4}>()  kvheads = Constant<value = int64[4] {0,0,1,4}>()
q0 = MatMul(x, wq)  q1 = Reshape(q0, heads)  q2 = Transpose<perm=[0,2,1,3]>(q1)
k0 = MatMul(x, wk)  k1 = Reshape(k0, kvheads)  k2 = Transpose<perm=[0,2,1,3]>(k1)
v0 = MatMul(x, wv)  v1 = Reshape(v0, kvheads)  v2 = Transpose<perm=[0,2,1,3]>(v1)
a1 = Constant<value = int64[1] {1}>()  a2 = Constant<value = int64[1] {2}>()  z = Constant<value = int64[1] {0}>()
big = Constant<value = int64[1] {9223372036854775807}>()  a3 = Constant<value = int64[1] {3}>()
pf = Cast<to=1>(position_ids)  p3 = Unsqueeze(pf, a2)  freq = Mul(p3, inv_freq)  emb = Concat<axis=-1>(freq, freq)
cos0 = Cos(emb)  sin0 = Sin(emb)  cos = Unsqueeze(cos0, a1)  sin = Unsqueeze(sin0, a1)
qa = Slice(q2, z, a2, a3)  qb = Slice(q2, a2, big, a3)  qn = Neg(qb)  qr = Concat<axis=-1>(qn, qa)
qc = Mul(q2, cos)  qs = Mul(qr, sin)  q = Add(qc, qs)
ka = Slice(k2, z, a2, a3)  kb = Slice(k2, a2, big, a3)  kn = Neg(kb)  kr = Concat<axis=-1>(kn, ka)
kc = Mul(k2, cos)  ks = Mul(kr, sin)  k = Add(kc, ks)
s = Shape(k)  i0 = Constant<value = int64 {0}>()  i2 = Constant<value = int64 {2}>()
b = Gather<axis=0>(s, i0)  b1 = Unsqueeze(b, z)  l = Gather<axis=0>(s, i2)  l1 = Unsqueeze(l, z)
d = Constant<value = int64[1] {4}>()  five = Concat<axis=0>(b1, a1, a2, l1, d)  four = Concat<axis=0>(b1, a2, l1, d)
k5 = Unsqueeze(k, a2)  ke = Expand(k5, five)  kk = Reshape(ke, four)
v5 = Unsqueeze(v2, a2)  vx = Expand(v5, five)  v = Reshape(vx, four)
kt = Transpose<perm=[0,1,3,2]>(kk)  w0 = MatMul(q, kt)  w1 = Div(w0, two)
ll = Concat<axis=0>(l1, l1)  low = ConstantOfShape<value = float[1] {-1e9}>(ll)  causal = Trilu<upper=1>(low, top)
am = Unsqueeze(attention_mask, both)  amf = Cast<to=1>(am)  im = Sub(one, amf)  lowf = Constant<value_float=-1e9>()
pm = Mul(im, lowf)  mask = Add(causal, pm)  w2 = Add(w1, mask)
sm = Softmax<axis=-1>(w2)  o = MatMul(sm, v)  ot = Transpose<perm=[0,2,1,3]>(o)
flat = Constant<value = int64[3] {0,0,-1}>()  of = Reshape(ot, flat)  pr = MatMul(of, wo)  r = Add(h, pr)
g = MatMul(r, wg)  gs = Sigmoid(g)  ga = Mul(g, gs)  u = MatMul(r, wu)  gu = Mul(ga, u)  dn = MatMul(gu, wd)
y = Add(r, dn) }"""


def test_llama_block() -> None:
    """RMS norm, rotary positions, grouped keys repeated by Expand, a mask of padding, and SiLU."""

    def sample(batch: int, tokens: int) -> Arrays:
        mask = np.ones((batch, tokens), np.int64)
        mask[:, tokens // 2 + 1 :] = 0
        positions = np.broadcast_to(np.arange(tokens), (batch, tokens)).copy()
        return {"h": noise(batch, tokens, 8), "attention_mask": mask, "position_ids": positions}

    check(
        LLAMA,
        sample(1, 5),
        sample(2, 1),
        sample(3, 12),
        weights={"inv_freq": np.float32([1, 0.1]), "top": np.int64(1), "both": np.int64([1, 2])}
        | weights({"gamma": (8,), "wq": (8, 8), "wk": (8, 4), "wv": (8, 4), "wo": (8, 8)})
        | weights({"wg": (8, 12), "wu": (8, 12), "wd": (12, 8)}),
    )


def test_classifier_of_texts() -> None:
    """BERT's way: int64 ids, a mask that becomes an addend, pooling over what is not masked."""
    check(
        """<ir_version: 8, opset_import: ["" : 13]>
        net (int64[B,S] ids, int64[B,S] mask, int64[B,S] types) => (float[B,3] y, int64[B] best) {
        e = Gather(table, ids)  t = Gather(kinds, types)  h = Add(e, t)
        m1 = Unsqueeze(mask, axis2)  mf = Cast<to=1>(m1)  hm = Mul(h, mf)  sum = ReduceSum<keepdims=0>(hm, axis1)
        n0 = ReduceSum<keepdims=0>(mf, axis1)  low = Constant<value_float=1e-9>()  n = Clip(n0, low)
        mean = Div(sum, n)  z = Gemm<transB=1>(mean, w, b)  a = Tanh(z)  y = LogSoftmax<axis=-1>(a)
        best = ArgMax<axis=-1, keepdims=0>(a) }""",
        {"ids": np.array([[1, 2, 19], [4, 0, 0]]), "mask": np.array([[1, 1, 1], [1, 0, 0]])}
        | {"types": np.array([[0, 0, 1], [0, 1, 1]])},
        {"ids": np.array([[-1]]), "mask": np.array([[1]]), "types": np.array([[0]])},
        weights={"axis2": np.int64([2]), "axis1": np.int64([1])}
        | weights({"table": (20, 8), "kinds": (2, 8), "w": (3, 8), "b": (3,)}),
    )


def test_branch_on_a_value_computed_at_run_time() -> None:
    text = """<ir_version: 8, opset_import: ["" : 16]> net (float[N,4] x) => (float[N,M] y, float z) {
        total = ReduceSum<keepdims=0>(x)  zero = Constant<value = float {0.0}>()  positive = Greater(total, zero)
        y = If(positive) <then_branch = yes () => (float[N,M] a) { a = MatMul(x, w) },
                          else_branch = no () => (float[N,M] b) { b = Relu(x) }>
        z = ReduceMax<keepdims=0>(y) }"""
    check(text, {"x": np.ones((2, 4), np.float32)}, {"x": -(noise(3, 4) ** 2)}, weights=weights({"w": (4, 4)}))


def test_recurrent_models_name_every_node_that_cannot_be_compiled() -> None:
    text = """<ir_version: 8, opset_import: ["" : 14]> net (float[S,1,4] x) => (float[S,1,2] y) {
        a, h, c = LSTM<hidden_size=2>(x, w, r)  f = Squeeze(a, one)  u = Unsqueeze(f, one)
        g, s = GRU<hidden_size=2>(x, w3, r3)  k = Squeeze(g, one)  y = Add(f, k) }"""
    shapes = {"w": (1, 8, 4), "r": (1, 8, 2), "w3": (1, 6, 4), "r3": (1, 6, 2)}
    model = model_of(text, {"one": np.int64([1]), **weights(shapes)})
    with pytest.raises(UnsupportedError, match=r"(?s)2 nodes cannot be compiled.*LSTM.*GRU"):
        graphopt.compile(model)


def test_quantized_convolution() -> None:
    rng = np.random.default_rng(0)
    check(
        """<ir_version: 8, opset_import: ["" : 13]> net (float[N,3,8,8] x) => (float[N,4,8,8] y, float[N,2] z) {
        xq = QuantizeLinear(x, sx, zx)  xd = DequantizeLinear(xq, sx, zx)
        wd = DequantizeLinear<axis=0>(wq, sw, zw)  bd = DequantizeLinear<axis=0>(bq, sb)
        c = Conv<pads=[1,1,1,1]>(xd, wd, bd)  r = Relu(c)
        rq = QuantizeLinear(r, sr, zr)  y = DequantizeLinear(rq, sr, zr)
        p = GlobalAveragePool(y)  f = Flatten(p)  z = MatMul(f, w) }""",
        {"x": noise(1, 3, 8, 8)},
        {"x": noise(2, 3, 8, 8, seed=1)},
        tolerance=0.02,  # one step of the quantization of y: what lies between two steps may be rounded either way
        weights={"sx": np.float32(0.03), "zx": np.uint8(128), "sr": np.float32(0.02), "zr": np.uint8(0)}
        | {"wq": rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), "sw": np.float32([2e-3, 3e-3, 1e-3, 2e-3])}
        | {"zw": np.zeros(4, np.int8), "bq": rng.integers(-99, 99, 4).astype(np.int32)}
        | {"sb": np.float32([6e-5, 9e-5, 3e-5, 6e-5]), **weights({"w": (4, 2)})},
    )


def test_odd_interfaces() -> None:
    """An input as output, one input and one output twice, a constant as output, an unused input, an empty tensor."""
    check(
        """<ir_version: 8, opset_import: ["" : 18]>
        net (float[N,3] x, float[N] unused, float s, float[0,3] none)
        => (float[N,3] x, float[M,3] joined, float[2] fixed, float t, float[N,3] twice, float[0,3] empty) {
        joined = Concat<axis=0>(x, none)  fixed = Constant<value = float[2] {1.5, -2.0}>()  t = Add(s, s)
        twice = Identity(x)  empty = Relu(none) }""",
        {"x": noise(2, 3), "unused": noise(2), "s": np.array(3, np.float32), "none": np.zeros((0, 3), np.float32)},
        {"x": noise(0, 3), "unused": noise(0), "s": np.array(-1, np.float32), "none": np.zeros((0, 3), np.float32)},
    )
