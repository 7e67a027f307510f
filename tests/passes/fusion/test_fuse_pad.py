from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.fusion.fuse_pad import FusePad
from tests.helpers import check_declines, check_pass

PASS = FusePad()
RNG = np.random.default_rng(0)
NEVER_WINS = np.array(-np.inf, np.float32)


def text(consumer, pad="Pad(X, pads)", out="float[N,C,H,V]"):
    return f"g (float[N,3,8,9] X) => ({out} Y) {{ p = {pad}  Y = {consumer} }}"


def weights(pads=(0, 0, 1, 0, 0, 0, 2, 1), **more):
    return {
        "pads": np.array(pads, np.int64),
        "W": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "zero": np.array(0, np.float32),
        "lowest": NEVER_WINS,
        "two": np.array(2, np.float32),
        "axes": np.array([-1, 2], np.int64),
    } | more


@pytest.mark.parametrize(
    ("conv", "pads"),
    [
        ("Conv(p, W)", "[1, 0, 2, 1]"),
        ("Conv <pads = [1, 1, 0, 0], strides = [2, 1]> (p, W)", "[2, 1, 2, 1]"),
        ('Conv <auto_pad = "VALID"> (p, W)', "[1, 0, 2, 1]"),
    ],
)
def test_zeros_into_a_convolution(conv, pads):
    given = weights()
    strides = ", strides = [2, 1]" if "strides" in conv else ""
    after = f"g (float[N,3,8,9] X) => (float[N,C,H,V] Y) {{ Y = Conv <pads = {pads}{strides}> (X, W) }}"
    if "VALID" in conv:
        after = after.replace("Conv <", 'Conv <auto_pad = "NOTSET", ')
        model = check_pass(PASS, text(conv), weights=given, ops={"Conv": 1})
        (node,) = model.graph.nodes
        assert node.attr("pads") == (1, 0, 2, 1)
        assert node.attr("auto_pad") is None
        return
    check_pass(PASS, text(conv), after, weights=given, counts={"rewritten": 1})


def test_named_axes_and_an_explicit_zero():
    given = weights((2, 1, 0, 1))
    check_pass(PASS, text("Conv(p, W)", "Pad(X, pads, zero, axes)"), weights=given, ops={"Conv": 1})


def test_zeros_into_an_average_that_counts_them():
    pool = "AveragePool <kernel_shape = [3, 3]{}> (p)"
    for more in ("", ", strides = [2, 2]", ", pads = [1, 1, 0, 0], count_include_pad = 1", ", count_include_pad = 1"):
        given = weights((0, 0, 1, 0, 0, 0, 2, 1))
        model = check_pass(PASS, text(pool.format(more)), weights=given, ops={"AveragePool": 1})
        assert next(iter(model.graph.nodes)).attr("count_include_pad") == 1


def test_an_average_that_would_count_differently():
    pool = "AveragePool <kernel_shape = [3, 3]{}> (p)"
    own = text(pool.format(", pads = [1, 1, 0, 0]"))
    check_declines(PASS, own, "the pooling does not count its own padding", weights=weights())
    rounded = text(pool.format(", ceil_mode = 1, strides = [2, 2]"))
    reason = "the pooling rounds its size up, which counts padding otherwise than data"
    check_declines(PASS, rounded, reason, weights=weights())
    wide = text(pool.format(""))
    check_declines(PASS, wide, "padding as wide as the pooling window", weights=weights((0, 0, 3, 0, 0, 0, 0, 0)))


@pytest.mark.parametrize("more", ["", ", pads = [1, 1, 0, 0]", ", dilations = [2, 1]"])
def test_minus_infinity_into_a_maximum(more):
    pool = f"MaxPool <kernel_shape = [4, 4]{more}> (p)"
    check_pass(PASS, text(pool, "Pad(X, pads, lowest)"), weights=weights(), ops={"MaxPool": 1})


@pytest.mark.parametrize("op", ["Relu(X)", "Sigmoid(X)", "Clip(X, zero, two)", "HardSigmoid(X)"])
def test_zeros_into_a_maximum_of_what_is_never_negative(op):
    pool = f"r = {op}  p = Pad(r, pads)  Y = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (p)"
    given = f"g (float[N,3,8,9] X) => (float[N,3,H,V] Y) {{ {pool} }}"
    kept = op.split("(")[0]
    check_pass(PASS, given, weights=weights((0, 0, 1, 1, 0, 0, 1, 1)), ops={kept: 1, "MaxPool": 1})


def test_the_absolute_value_of_the_smallest_integer_is_negative():
    text = (
        "g (int8[1,2,4,4] X) => (int8[1,2,5,5] Y) { r = Abs(X) p = Pad(r, pads) "
        "Y = MaxPool <kernel_shape = [2, 2]> (p) }"
    )
    given = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)}
    check_declines(PASS, text, "padded with a number that can win over the data", weights=given)


def test_a_maximum_that_rounds_its_size_up():
    pool = text("MaxPool <kernel_shape = [4, 4], ceil_mode = 1, strides = [2, 2]> (p)", "Pad(X, pads, lowest)")
    reason = "the pooling rounds its size up, which counts padding otherwise than data"
    check_declines(PASS, pool, reason, weights=weights())


def test_zero_is_the_lowest_unsigned_byte():
    given = "g (uint8[N,3,8,9] X) => (uint8[N,3,H,V] Y) { p = Pad(X, pads)  Y = MaxPool <kernel_shape = [3, 3]> (p) }"
    check_pass(PASS, given, weights=weights(), ops={"MaxPool": 1})


def test_a_maximum_that_the_padding_could_win():
    reason = "padded with a number that can win over the data"
    pool = "MaxPool <kernel_shape = [3, 3]{}> (p)"
    check_declines(PASS, text(pool.format("")), reason, weights=weights())
    check_declines(PASS, text(pool.format(""), "Pad(X, pads, two)"), reason, weights=weights())
    positive = text(pool.format(", dilations = [2, 2]"), "Pad(r, pads)  ").replace("p =", "r = Relu(X) p =")
    missing = "zeros before a max-pooling whose windows may miss the data"
    check_declines(PASS, positive, missing, weights=weights())
    indices = text(pool.format(""), "Pad(X, pads, lowest)").replace("Y = Max", "Y, I = Max")
    indices = indices.replace("Y) {", "Y, int64[N,C,H,V] I) {")
    check_declines(PASS, indices, "the pooling gives out indices", weights=weights())


def test_paddings_that_a_convolution_does_not_have():
    conv = text("Conv(p, W)")
    channels = text("Conv(p, W)").replace("[N,3,8,9]", "[N,2,8,9]")
    reason = "the batch or channel axis is padded"
    check_declines(PASS, channels, reason, weights=weights((0, 0, 1, 0, 0, 1, 2, 1)))
    check_declines(PASS, conv, "the Pad crops", weights=weights((0, 0, -1, 0, 0, 0, 2, 1)))
    edge = text("Conv(p, W)", 'Pad <mode = "edge"> (X, pads)')
    check_declines(PASS, edge, "padding mode edge", weights=weights())
    one = "padded with something else than a constant zero"
    check_declines(PASS, text("Conv(p, W)", "Pad(X, pads, two)"), one, weights=weights())
    same = text('Conv <auto_pad = "SAME_UPPER"> (p, W)')
    check_declines(PASS, same, "the consumer pads by auto_pad", weights=weights())
    free = conv.replace("9] X", "9] X, int64[8] pads")
    check_declines(PASS, free, "the amount of padding is not constant", weights=weights())


def test_padded_data_that_is_used_elsewhere():
    conv = text("Conv(p, W)").replace("] Y)", "] Y, float[N,3,D,E] p)")
    check_declines(PASS, conv, "the padded data is used elsewhere too", weights=weights())


def test_a_pad_before_something_else_is_no_near_miss():
    check_declines(PASS, text("Relu(p)"), weights=weights())


def test_opsets_with_pads_as_attributes():
    header = '<ir_version: 8, opset_import: ["" : 17]> '
    check_declines(PASS, header + text("Conv(p, W)"), "opset below 18", weights=weights())
