from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.fusion.fuse_attention import FuseAttention
from graphopt.proof.tolerance import Tolerance
from tests.helpers import check_declines, check_pass

PASS = FuseAttention()
RNG = np.random.default_rng(0)
SHAPE = "float[B,3,S,8]"
SIGNATURE = f"g ({SHAPE} Q, {SHAPE} K, {SHAPE} V) => ({SHAPE} Y)"
SWAP = "k = Transpose <perm = [0, 1, 3, 2]> (K)  "
EXPANDED = {"Shape": 1, "Concat": 1, "Expand": 1}
END = "w = Softmax <axis = -1> (s)  Y = MatMul(w, V)"


def constants(dtype=np.float32, **more):
    low = -65504 if dtype is np.float16 else -1e9
    given = {"c": 0.3, "root": np.sqrt(8.0), "half": 0.5477, "low": low, "zero": 0, "gone": -np.inf}
    return {name: np.asarray(value, dtype) for name, value in (given | more).items()}


def attention(scale, signature=SIGNATURE, mask=""):
    inputs = "Q, K, V, M" if mask else "Q, K, V"
    return f"{signature} {{ Y = Attention <scale = {scale}> ({inputs}) }}"


def with_mask(shape, dtype="float"):
    return SIGNATURE.replace(" V)", f" V, {dtype}[{shape}] M)")


@pytest.mark.parametrize(
    ("body", "scale"),
    [
        ("t = MatMul(Q, k)  s = Mul(t, c)  ", 0.3),
        ("t = MatMul(Q, k)  s = Mul(c, t)  ", 0.3),
        ("t = MatMul(Q, k)  s = Div(t, root)  ", 1 / np.sqrt(8)),
        ("s = MatMul(Q, k)  ", 1.0),
        ("q = Mul(Q, c)  s = MatMul(q, k)  ", 0.3),
        ("q = Div(Q, root)  s = MatMul(q, k)  ", 1 / np.sqrt(8)),
        ("l = Mul(k, c)  s = MatMul(Q, l)  ", 0.3),
        ("q = Mul(Q, half)  l = Mul(k, half)  s = MatMul(q, l)  ", 0.5477**2),
        ("q = Mul(Q, c)  u = MatMul(q, k)  t = Mul(u, c)  s = Div(t, root)  ", 0.09 / np.sqrt(8)),
    ],
)
def test_where_the_scale_may_stand(body, scale):
    model = check_pass(PASS, f"{SIGNATURE} {{ {SWAP}{body}{END} }}", weights=constants(), ops={"Attention": 1})
    (node,) = model.graph.nodes
    assert node.attr("scale") == pytest.approx(scale, rel=1e-6)
    assert [value.name for value in node.inputs] == ["Q", "K", "V"]


def test_a_scale_on_the_keys_before_their_transpose():
    text = f"{SIGNATURE} {{ j = Mul(K, c)  k = Transpose <perm = [0, 1, 3, 2]> (j)  s = MatMul(Q, k)  {END} }}"
    check_pass(PASS, text, attention(0.3), weights=constants())


def test_keys_whose_transpose_does_more():
    signature = SIGNATURE.replace(f"{SHAPE} K", "float[B,S,3,8] K")
    text = f"{signature} {{ k = Transpose <perm = [0, 2, 3, 1]> (K)  t = MatMul(Q, k)  s = Mul(t, c)  {END} }}"
    after = f"{signature} {{ k = Transpose <perm = [0, 2, 1, 3]> (K)  Y = Attention <scale = 0.3> (Q, k, V) }}"
    check_pass(PASS, text, after, weights=constants())


def test_keys_transposed_as_a_batch_of_matrices():
    body = "r = Reshape(K, flat)  u = Transpose <perm = [0, 2, 1]> (r)  k = Reshape(u, back)  t = MatMul(Q, k)  "
    text = f"{SIGNATURE} {{ {body} s = Mul(t, c)  {END} }}".replace(",S,8]", ",5,8]")
    given = constants() | {"flat": np.array([-1, 5, 8], np.int64), "back": np.array([-1, 3, 8, 5], np.int64)}
    check_pass(PASS, text, weights=given, ops={"Attention": 1})
    other = given | {"flat": np.array([-1, 15, 8], np.int64)}
    check_declines(PASS, text, "the keys do not come out of a transpose", weights=other)


def test_three_axes_are_one_head():
    shape = "float[B,S,8]"
    keys = "k = Transpose <perm = [0, 2, 1]> (K)"
    signature = f"g ({shape} Q, {shape} K, {shape} V) => ({shape} Y)"
    text = f"{signature} {{ {keys}  t = MatMul(Q, k)  s = Mul(t, c)  {END} }}"
    after = f"{signature} {{ Y = Attention <scale = 0.3, q_num_heads = 1, kv_num_heads = 1> (Q, K, V) }}"
    check_pass(PASS, text, after, weights=constants())
    signature = signature.replace(" V)", " V, float[B,S,S] M)")
    text = f"{signature} {{ {keys}  t = MatMul(Q, k)  a = Mul(t, c)  s = Add(a, M)  {END} }}"
    check_pass(PASS, text, weights=constants(), ops={"Attention": 1, "Unsqueeze": 1})


def test_queries_and_keys_of_other_lengths():
    signature = f"g (float[B,3,T,8] Q, {SHAPE} K, float[B,3,S,5] V, float[T,S] M) => (float[B,3,T,5] Y)"
    text = f"{signature} {{ {SWAP} t = MatMul(Q, k)  a = Mul(t, c)  s = Add(a, M)  {END} }}"
    check_pass(PASS, text, attention(0.3, signature, "M"), weights=constants(), shapes={"Q": (2, 3, 4, 8)})


@pytest.mark.parametrize("shape", ["B,3,S,S", "1,1,S,S", "S,S", "3,S,S", "B,1,S,S"])
@pytest.mark.parametrize("add", ["Add(a, M)", "Add(M, a)"])
def test_a_mask_that_is_added(shape, add):
    signature = with_mask(shape)
    text = f"{signature} {{ {SWAP} t = MatMul(Q, k)  a = Mul(t, c)  s = {add}  {END} }}"
    check_pass(PASS, text, attention(0.3, signature, "M"), weights=constants())


@pytest.mark.parametrize("shape", ["B,1,1,S", "1,1,1,S", "3,1,S", "1,S", "S"])
def test_a_mask_with_one_row_for_all_queries(shape):
    text = f"{with_mask(shape)} {{ {SWAP} t = MatMul(Q, k)  a = Mul(t, c)  s = Add(a, M)  {END} }}"
    ops = {"Attention": 1} | EXPANDED | ({"Unsqueeze": 1} if shape == "S" else {})
    check_pass(PASS, text, weights=constants(), ops=ops)
    static = {"Attention": 1, "Expand": 1} | ({"Unsqueeze": 1} if shape == "S" else {})
    text = text.replace(",S,8]", ",5,8]").replace(f"[{shape}] M", f"[{shape}] M".replace("S", "5"))
    check_pass(PASS, text, weights=constants(), ops=static)


@pytest.mark.parametrize("where", ["Where(M, a, low)", "Where(M, low, a)"])
def test_a_mask_that_replaces(where):
    signature = with_mask("B,1,1,S", "bool")
    text = f"{signature} {{ {SWAP} t = MatMul(Q, k)  a = Mul(t, c)  s = {where}  {END} }}"
    mask = np.array([[True, True, False, True], [False, True, True, True]]).reshape(2, 1, 1, 4)
    sample = {name: RNG.normal(size=(2, 3, 4, 8)).astype(np.float32) for name in "QKV"} | {"M": mask}
    check_pass(PASS, text, weights=constants(), ops={"Attention": 1, "Where": 1} | EXPANDED, inputs=sample)


GUARDED = "w = Softmax <axis = -1> (s)  n = IsNaN(w)  z = Where(n, zero, w)  Y = MatMul(z, V)"


@pytest.mark.parametrize(("where", "more"), [("Where(M, a, gone)", {}), ("Where(M, gone, a)", {"Not": 1})])
def test_a_boolean_mask(where, more):
    """Forbidden scores become -inf: a row without any other is NaN, or 0 after a guard as it is in Attention."""
    signature = with_mask("B,1,S,S", "bool")
    text = f"{signature} {{ {SWAP} t = MatMul(Q, k)  a = Mul(t, c)  s = {where}  {GUARDED} }}"
    sample = {name: RNG.normal(size=(2, 3, 4, 8)).astype(np.float32) for name in "QKV"}
    sample["M"] = np.triu(np.ones((2, 1, 4, 4), bool))
    check_pass(PASS, text, weights=constants(), ops={"Attention": 1} | more, inputs=sample)
    reason = "a row that the mask forbids entirely would be 0 instead of NaN"
    check_declines(PASS, text.replace(GUARDED, END), reason, weights=constants())


def test_a_constant_boolean_mask():
    causal = np.tril(np.ones((5, 5), bool))
    text = f"{SIGNATURE} {{ {SWAP} t = MatMul(Q, k)  a = Mul(t, c)  s = Where(M, a, gone)  {END} }}"
    text = text.replace(",S,8]", ",5,8]")
    check_pass(PASS, text, weights=constants() | {"M": causal}, ops={"Attention": 1})
    strict = np.tril(np.ones((5, 5), bool), -1)
    reason = "a row that the mask forbids entirely would be 0 instead of NaN"
    check_declines(PASS, text, reason, weights=constants() | {"M": strict})


def test_two_masks():
    signature = with_mask("1,1,S,S", "bool").replace(" M)", " M, float[B,1,1,S] P)")
    for inner, outer in (("Where(M, a, low)", "Add(m, P)"), ("Add(P, a)", "Where(M, m, low)")):
        score = f"t = MatMul(Q, k)  a = Mul(t, c)  m = {inner}  s = {outer}"
        text = f"{signature} {{ {SWAP} {score}  {END} }}"
        sample = {name: RNG.normal(size=(2, 3, 4, 8)).astype(np.float32) for name in "QKV"}
        sample["M"] = np.tril(np.ones((1, 1, 4, 4), bool))
        sample["P"] = np.where(RNG.random((2, 1, 1, 4)) < 0.3, np.finfo(np.float32).min, 0).astype(np.float32)
        sample["P"][..., 0] = 0
        check_pass(PASS, text, weights=constants(), ops={"Attention": 1, "Where": 1, "Add": 1}, inputs=sample)
    rows = signature.replace("bool[1,1,S,S] M", "float[B,1,S,1] M")
    text = f"{rows} {{ {SWAP} t = MatMul(Q, k)  a = Mul(t, c)  m = Add(a, M)  s = Add(m, P)  {END} }}"
    check_pass(PASS, text, weights=constants(), ops={"Attention": 1, "Add": 1})


def test_two_masks_that_forbid():
    signature = with_mask("S,S", "bool").replace(" M)", " M, bool[B,1,1,S] P)")
    score = "t = MatMul(Q, k)  a = Mul(t, c)  m = Where(M, a, gone)  s = Where(P, gone, m)"
    sample = {name: RNG.normal(size=(2, 3, 4, 8)).astype(np.float32) for name in "QKV"}
    sample |= {
        "M": np.tril(np.ones((4, 4), bool)),
        "P": np.array([[0, 0, 0, 1], [0, 1, 0, 0]], bool).reshape(2, 1, 1, 4),
    }
    text = f"{signature} {{ {SWAP} {score}  {GUARDED} }}"
    check_pass(PASS, text, weights=constants(), ops={"Attention": 1, "Where": 2, "Add": 1}, inputs=sample)
    reason = "a row that the mask forbids entirely would be 0 instead of NaN"
    check_declines(PASS, text.replace(GUARDED, END), reason, weights=constants())


def test_rows_that_are_masked_entirely():
    signature = with_mask("B,1,S,S", "bool")
    text = f"{signature} {{ {SWAP} t = MatMul(Q, k)  a = Mul(t, c)  s = Where(M, a, low)  {END} }}"
    sample = {name: RNG.normal(size=(2, 3, 4, 8)).astype(np.float32) for name in "QKV"}
    sample["M"] = np.zeros((2, 1, 4, 4), bool)
    check_pass(PASS, text, weights=constants(), ops={"Attention": 1, "Where": 1}, inputs=sample)


def test_a_guard_against_rows_that_are_masked_entirely():
    signature = with_mask("B,1,S,S")
    text = f"{signature} {{ {SWAP} t = MatMul(Q, k)  a = Mul(t, c)  s = Add(a, M)  {GUARDED} }}"
    check_pass(PASS, text, attention(0.3, signature, "M"), weights=constants())
    one = text.replace("zero", "one")
    check_declines(PASS, one, weights=constants(one=1))


def test_softmax_in_float32_of_half_precision_data():
    signature = SIGNATURE.replace("float[", "float16[")
    end = "f = Cast <to = 1> (s)  w = Softmax <axis = -1> (f)  h = Cast <to = 10> (w)  Y = MatMul(h, V)"
    text = f"{signature} {{ {SWAP} t = MatMul(Q, k)  s = Mul(t, c)  {end} }}"
    model = check_pass(PASS, text, weights=constants(np.float16), ops={"Attention": 1}, tol=Tolerance.uniform(5e-3))
    (node,) = model.graph.nodes
    assert node.attr("softmax_precision") == 1


def test_half_precision():
    text = f"{SIGNATURE} {{ {SWAP} t = MatMul(Q, k)  s = Mul(t, c)  {END} }}".replace("float[", "float16[")
    check_pass(PASS, text, weights=constants(np.float16), ops={"Attention": 1}, tol=Tolerance.uniform(1e-2))


def test_several_attentions_share_a_mask():
    signature = with_mask("B,1,1,S").replace(") =>", f", {SHAPE} W) =>").replace("8] Y)", f"8] Y, {SHAPE} Z)")
    text = (
        f"{signature} {{ {SWAP} t = MatMul(Q, k)  a = Mul(t, c)  s = Add(a, M)  {END}  "
        "u = MatMul(W, k)  b = Mul(u, c)  v = Add(b, M)  x = Softmax(v)  Z = MatMul(x, V) }"
    )
    ops = {"Attention": 2} | dict.fromkeys(EXPANDED, 2)
    check_pass(PASS, text, weights=constants(), ops=ops, counts={"rewritten": 2})


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_queries(groups):
    few = f"float[B,{groups},S,8]"
    signature = f"g (float[B,4,S,8] Q, {few} K, {few} V) => (float[B,4,S,8] Y)"
    text = (
        f"{signature} {{ n = Shape(K)  b = Slice(n, zero, one)  l = Slice(n, two, four)  "
        "e = Concat <axis = 0> (b, groups, copies, l)  f = Concat <axis = 0> (b, four, l)  "
        "k1 = Unsqueeze(K, two)  k2 = Expand(k1, e)  k3 = Reshape(k2, f)  "
        "v1 = Unsqueeze(V, two)  v2 = Expand(v1, e)  v3 = Reshape(v2, f)  "
        "k = Transpose <perm = [0, 1, 3, 2]> (k3)  t = MatMul(Q, k)  s = Mul(t, c)  w = Softmax(s)  Y = MatMul(w, v3) }"
    )
    names = {"zero": 0, "one": 1, "two": 2, "four": 4, "groups": groups, "copies": 4 // groups}
    given = {name: np.array([number], np.int64) for name, number in names.items()}
    given["c"] = np.array(0.3, np.float32)
    check_pass(PASS, text, attention(0.3, signature), weights=given)


def scored(score, signature=SIGNATURE, end=END):
    return f"{signature} {{ {SWAP} {score}  {end} }}"


PLAIN = "t = MatMul(Q, k)  s = Mul(t, c)"
MASKED = "t = MatMul(Q, k)  a = Mul(t, c)  s = Add(a, M)"


UNFIT = "the mask is not known to fit the attention matrix"
UNLIKE = "queries, keys and values are not known to have the same batch and heads"
FREE_SCALE = SIGNATURE.replace(" V)", " V, float[1] f)")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (scored(PLAIN.replace("Mul(t, c)", "Mul(t, f)"), FREE_SCALE), "the scale is not constant"),
        (
            scored("t = MatMul(Q, k)  a = Add(t, M)  s = Mul(a, c)", with_mask("S,S")),
            "the scores are scaled after they are masked",
        ),
        (scored(PLAIN.replace("(t, c)", "(t, low)")), "the scale is not positive"),
        (scored(PLAIN, end=END.replace("-1", "-2")), "the softmax is not over the keys"),
        (scored(MASKED, with_mask("B,1,1,T")), UNFIT),
        (scored(MASKED, with_mask("D,1,1,S")), UNFIT),
        (scored(MASKED, with_mask("2,1,1,S,S")), UNFIT),
        (scored(MASKED, with_mask("B,1,S,1")), "the mask is not known to have a column for each key"),
        (
            scored(MASKED.replace("Add(a, M)", "Where(M, a, half)"), with_mask("S,S", "bool")),
            "what the mask puts in place of a score is not low enough",
        ),
        (scored(PLAIN, SIGNATURE.replace(f"{SHAPE} V", "float[1,3,S,8] V")), UNLIKE),
        (scored(PLAIN, SIGNATURE.replace(f"{SHAPE} K", "float[C,3,S,8] K")), UNLIKE),
        (
            f"g (float[S,8] Q, float[S,8] K, float[S,8] V) => (float[S,8] Y) {{ k = Transpose(K)  {PLAIN}  {END} }}",
            "the keys do not come out of a transpose",
        ),
    ],
)
def test_near_misses(text, reason):
    check_declines(PASS, text, reason, weights=constants())


def test_matrices_without_heads():
    signature = "g (float[S,8] Q, float[2,S,8] K, float[S,8] V) => (float[2,S,8] Y)"
    text = f"{signature} {{ k = Transpose <perm = [0, 2, 1]> (K)  {PLAIN}  {END} }}"
    reason = "queries, keys and values are not known to have 3 or 4 axes each"
    check_declines(PASS, text, reason, weights=constants())


def test_keys_that_come_transposed():
    text = f"g ({SHAPE} Q, float[B,3,8,S] k, {SHAPE} V) => ({SHAPE} Y) {{ {PLAIN}  {END} }}"
    check_declines(PASS, text, "the keys do not come out of a transpose", weights=constants())


@pytest.mark.parametrize(("name", "kept"), [("w", 0), ("s", 0), ("t", 0), ("k", 1)])
def test_results_in_the_middle(name, kept):
    shape = "B,3,8,S" if name == "k" else "B,3,S,S"
    text = scored(PLAIN).replace("8] Y)", f"8] Y, float[{shape}] {name})")
    if kept:  # the transposed keys stay for whoever wants them
        check_pass(PASS, text, weights=constants(), ops={"Attention": 1, "Transpose": 1})
        return
    check_declines(PASS, text, "an intermediate result is used elsewhere or is an output", weights=constants())


def test_older_opsets_and_double_precision():
    old = '<ir_version: 10, opset_import: ["" : 22]> ' + scored(PLAIN)
    check_declines(PASS, old, "opset below 23", weights=constants())
    double = scored(PLAIN).replace("float[", "double[")
    check_declines(PASS, double, "a scale in double precision", weights=constants(np.float64))


def test_inside_a_branch():
    text = (
        f"g ({SHAPE} Q, {SHAPE} K, {SHAPE} V, bool B_) => ({SHAPE} Z) {{ Z = If (B_) <"
        f"then_branch = t () => ({SHAPE} Y) {{ {SWAP} {PLAIN}  {END} }}, "
        f"else_branch = f () => ({SHAPE} z) {{ z = Neg(Q) }}> }}"
    )
    sample = {name: RNG.normal(size=(1, 3, 4, 8)).astype(np.float32) for name in "QKV"} | {"B_": np.array(True)}
    check_pass(PASS, text, weights=constants(), ops={"If": 1, "Attention": 1, "Neg": 1}, inputs=sample)


def test_a_classifier_is_no_near_miss():
    text = "g (float[N,8] X) => (float[N,4] Y) { t = MatMul(X, W)  s = Add(t, b)  Y = Softmax(s) }"
    check_declines(PASS, text, weights={"W": np.ones((8, 4), np.float32), "b": np.ones(4, np.float32)})
    mixture = "g (float[N,8] X) => (float[N,5] Y) { s = Relu(X)  w = Softmax(s)  Y = MatMul(w, W) }"
    check_declines(PASS, mixture, weights={"W": np.ones((8, 5), np.float32)})
