from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from graphopt.passes.fusion.fuse_conv_bn import FuseConvBn
from graphopt.proof.tolerance import Tolerance
from graphopt.rewriting.passes import PassContext
from tests.helpers import check_declines, check_pass, model_of

RNG = np.random.default_rng(0)


def weights(shape=(6, 3, 3, 3), channels=6, dtype=np.float32):
    return {
        "W": RNG.normal(size=shape).astype(dtype),
        "b": RNG.normal(size=channels).astype(dtype),
        "gamma": RNG.normal(size=channels).astype(dtype),
        "beta": RNG.normal(size=channels).astype(dtype),
        "mean": RNG.normal(size=channels).astype(dtype),
        "var": RNG.uniform(0.1, 2, size=channels).astype(dtype),
    }


NORM = "BatchNormalization(c, gamma, beta, mean, var)"
BEHIND = "g (float[N,3,9,7] X) => (float[N,6,H,W_] Y) {{ c = {conv}  Y = " + NORM + " }}"


CONVS = (
    "Conv(X, W)",
    "Conv(X, W, b)",
    "Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (X, W, b)",
    'Conv <auto_pad = "SAME_UPPER"> (X, W)',
)


@pytest.mark.parametrize("conv", CONVS)
def test_batch_norm_goes_into_the_convolution_before_it(conv):
    check_pass(FuseConvBn(), BEHIND.format(conv=conv), weights=weights(), ops={"Conv": 1}, counts={"rewritten": 1})


def test_the_convolution_keeps_its_attributes():
    check_pass(
        FuseConvBn(),
        BEHIND.format(conv="Conv <pads = [1, 0, 2, 1]> (X, W)"),
        "g (float[N,3,9,7] X) => (float[N,6,H,W_] Y) { Y = Conv <pads = [1, 0, 2, 1]> (X, W2, b2) }",
        weights=weights(),
    )


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        ("Conv <group = 3>", (6, 1, 3, 3)),
        ("ConvTranspose", (3, 6, 3, 3)),
        ("ConvTranspose <group = 3>", (3, 2, 2, 3)),
    ],
)
def test_groups_and_transposed_convolutions(op, shape):
    check_pass(FuseConvBn(), BEHIND.format(conv=f"{op} (X, W, b)"), weights=weights(shape), counts={"rewritten": 1})


def test_one_and_three_spatial_axes():
    for axes, shape in (("9", (6, 3, 3)), ("5,6,7", (6, 3, 2, 3, 1))):
        out = ",".join(f"d{i}" for i in range(len(shape) - 2))
        text = f"g (float[N,3,{axes}] X) => (float[N,6,{out}] Y) {{ c = Conv(X, W)  Y = {NORM} }}"
        check_pass(FuseConvBn(), text, weights=weights(shape), ops={"Conv": 1})


def test_epsilon_counts():
    given = weights() | {"var": np.zeros(6, np.float32)}
    text = BEHIND.format(conv="Conv(X, W)").replace("BatchNormalization(", "BatchNormalization <epsilon = 0.25> (")
    check_pass(FuseConvBn(), text, weights=given, ops={"Conv": 1})


def test_half_precision():
    text = BEHIND.format(conv="Conv(X, W, b)").replace("float[", "float16[")
    check_pass(FuseConvBn(), text, weights=weights(dtype=np.float16), ops={"Conv": 1}, tol=Tolerance.uniform(5e-3))


@pytest.mark.parametrize(("name", "dtype"), [("double", np.float64), ("bfloat16", ml_dtypes.bfloat16)])
def test_weights_are_folded_in_double_precision_and_rounded_once(name, dtype):
    given = weights(dtype=dtype)
    model = model_of(BEHIND.format(conv="Conv(X, W)").replace("float[", f"{name}["), given)
    FuseConvBn().run(model.graph, PassContext(model))
    (node,) = model.graph.nodes
    w, gamma, var = (given[k].astype(np.float64) for k in ("W", "gamma", "var"))
    exact = w * (gamma / np.sqrt(var + float(np.float32(1e-5))))[:, None, None, None]
    assert np.array_equal(node.inputs[1].constant.numpy(), exact.astype(dtype))


def test_batch_norm_goes_into_the_unpadded_convolution_behind_it():
    text = (
        "g (float[N,4,9,7] X) => (float[N,6,H,W_] Y) { "
        "n = BatchNormalization(X, gamma, beta, mean, var)  Y = Conv <group = 2> (n, W, b) }"
    )
    given = weights((6, 2, 3, 3)) | {k: v[:4] for k, v in weights().items() if k in ("gamma", "beta", "mean", "var")}
    check_pass(FuseConvBn(), text, weights=given, ops={"Conv": 1})
    check_pass(FuseConvBn(), text.replace("(n, W, b)", "(n, W)"), weights=given, ops={"Conv": 1})
    padded = text.replace("group = 2", "group = 2, pads = [1, 1, 1, 1]")
    check_declines(FuseConvBn(), padded, "a shift before a convolution that pads", weights=given)
    same = text.replace("group = 2", 'group = 2, auto_pad = "SAME_LOWER"')
    check_declines(FuseConvBn(), same, "a shift before a convolution that pads", weights=given)


def test_a_padded_convolution_takes_a_batch_norm_that_only_scales():
    given = weights((6, 4, 3, 3)) | {
        "gamma": RNG.normal(size=4).astype(np.float32),
        "beta": np.zeros(4, np.float32),
        "mean": np.zeros(4, np.float32),
        "var": np.ones(4, np.float32),
    }
    text = (
        "g (float[N,4,9,7] X) => (float[N,6,9,7] Y) { "
        "n = BatchNormalization(X, gamma, beta, mean, var)  Y = Conv <pads = [1, 1, 1, 1]> (n, W, b) }"
    )
    check_pass(FuseConvBn(), text, weights=given, ops={"Conv": 1})


def test_shared_weights_stay_for_their_other_user():
    text = (
        "g (float[N,3,9,7] X) => (float[N,6,7,5] Y, float[N,6,7,5] Z) { "
        "c = Conv(X, W)  Y = BatchNormalization(c, gamma, beta, mean, var)  Z = Conv(X, W) }"
    )
    check_pass(FuseConvBn(), text, weights=weights(), ops={"Conv": 2})


def test_it_declines_where_the_convolution_has_other_uses():
    other = (
        "g (float[N,3,9,7] X) => (float[N,6,7,5] Y, float[N,6,7,5] Z) { "
        "c = Conv(X, W)  Y = BatchNormalization(c, gamma, beta, mean, var)  Z = Relu(c) }"
    )
    reason = "the convolution's result is used elsewhere too"
    check_declines(FuseConvBn(), other, reason, weights=weights())
    output = other.replace("float[N,6,7,5] Z", "float[N,6,7,5] c").replace("Z = Relu(c)", "")
    check_declines(FuseConvBn(), output, reason, weights=weights())
    captured = (
        "g (float[N,3,9,7] X, bool B) => (float[N,6,7,5] Y, float[N,6,7,5] Z) { "
        "c = Conv(X, W)  Y = BatchNormalization(c, gamma, beta, mean, var)  "
        "Z = If (B) <then_branch = t () => (float[N,6,7,5] a) { a = Relu(c) }, "
        "else_branch = e () => (float[N,6,7,5] a) { a = Neg(c) }> }"
    )
    check_declines(FuseConvBn(), captured, reason, weights=weights())


def test_it_declines_what_is_not_constant_or_in_training_mode():
    free = BEHIND.format(conv="Conv(X, W)").replace("X)", "X, float[6] gamma)")
    check_declines(FuseConvBn(), free, "a parameter of the batch-norm is not constant", weights=weights())
    kernel = BEHIND.format(conv="Conv(X, W)").replace("X)", "X, float[6,3,3,3] W)")
    check_declines(FuseConvBn(), kernel, "the weights of the convolution are not constant", weights=weights())
    bias = BEHIND.format(conv="Conv(X, W, b)").replace("X)", "X, float[6] b)")
    check_declines(FuseConvBn(), bias, "the bias of the convolution is not constant", weights=weights())
    training = (
        "g (float[N,3,9,7] X) => (float[N,6,7,5] Y, float[6] m, float[6] v) { c = Conv(X, W)  "
        "Y, m, v = BatchNormalization <training_mode = 1> (c, gamma, beta, mean, var) }"
    )
    check_declines(FuseConvBn(), training, "the batch-norm is in training mode", weights=weights())


def test_it_declines_factors_that_are_no_numbers():
    given = weights() | {"var": np.full(6, -1, np.float32)}
    check_declines(
        FuseConvBn(), BEHIND.format(conv="Conv(X, W)"), "the batch-norm's factors are not finite", weights=given
    )
    huge = weights(dtype=np.float16) | {"gamma": np.full(6, 6e4, np.float16)}
    text = BEHIND.format(conv="Conv(X, W)").replace("float[", "float16[")
    check_declines(FuseConvBn(), text, "the folded weights do not fit their float type", weights=huge)


def test_it_says_what_the_batch_norm_follows():
    text = (
        "g (float[N,6,9,7] X) => (float[N,6,9,7] Y) { r = Relu(X)  Y = BatchNormalization(r, gamma, beta, mean, var) }"
    )
    check_declines(FuseConvBn(), text, "it follows Relu, not a convolution", weights=weights())
