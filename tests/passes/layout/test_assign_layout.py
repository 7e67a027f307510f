from __future__ import annotations

import numpy as np
import pytest

from graphopt.hardware.target import load as load_target
from graphopt.ir import infer_shapes, verify
from graphopt.passes.layout.assign_layout import AssignLayout
from graphopt.rewriting.passes import PassContext
from tests.helpers import check_declines, check_numbers, check_pass, model_of, value_named
from tests.passes.layout.support import BLOCK8, blocked, declined, nodes, noise

CONV = {"graphopt::BlockedConv": 1, "graphopt::ToBlocked": 1, "graphopt::FromBlocked": 1}
FIRST = {"graphopt::ConvToBlocked": 1, "graphopt::FromBlocked": 1}


@pytest.mark.parametrize("outputs", [5, 8, 12, 17, 24])
@pytest.mark.parametrize("channels", [1, 3, 8, 12, 17, 24])
def test_channels(channels: int, outputs: int) -> None:
    text = f"g (float[N,{channels},5,6] X) => (float[N,{outputs},3,4] Y) {{ Y = Conv(X, w, b) }}"
    model = blocked(text, FIRST if channels < 8 else CONV, w=noise(outputs, channels, 3, 3), b=noise(outputs))
    conv = next(node for node in model.graph.nodes if "Conv" in node.op_type)
    assert conv.output.shape == ("N", -(-outputs // 8), 3, 4, 8)
    assert conv.origin == ("Y",)


@pytest.mark.parametrize("outputs", [1, 3, 4])
def test_results_of_few_channels_are_blocked_behind_blocked_ones_only(outputs: int) -> None:
    text = f"g (float[N,12,5,6] X) => (float[N,{outputs},5,6] Y) {{ Y = Conv(X, w) }}"
    weights = {"w": noise(outputs, 12, 1, 1), "v": noise(12, 12, 1, 1)}
    check_declines(BLOCK8, text, "its result would not fill half a block", weights=weights)
    text = text.replace("{ ", "{ c = Conv(X, v)  ").replace("Conv(X, w)", "Conv(c, w)")
    blocked(text, {**CONV, "graphopt::BlockedConv": 2}, **weights)


@pytest.mark.parametrize("block", [4, 8, 16])
def test_blocks(block: int) -> None:
    text = "g (float[N,20,5,6] X) => (float[N,12,3,4] Y) { Y = Conv(X, w) }"
    blocked(text, CONV, AssignLayout(block=block), w=noise(12, 20, 3, 3))


def test_the_block_is_that_of_the_target() -> None:
    text = "g (float[N,20,5,6] X) => (float[N,12,3,4] Y) { Y = Conv(X, w) }"
    for name in ("x86:haswell", "x86:skylake-avx512", "arm:cortex-a76"):
        target = load_target(name)
        model = check_pass(AssignLayout(), text, weights={"w": noise(12, 20, 3, 3)}, target=target, changes=True)
        conv = next(node for node in model.graph.nodes if node.op_type == "BlockedConv")
        assert conv.attr("block") == target.vector_bits // 32


@pytest.mark.parametrize(
    ("attributes", "output"),
    [
        ("pads = [1,0,2,3]", "10,9"),
        ("strides = [2,3]", "4,2"),
        ("dilations = [2,1], pads = [2,1,2,1]", "9,8"),
        ("strides = [2,2], dilations = [1,2], pads = [0,3,1,0]", "4,4"),
        ('auto_pad = "SAME_UPPER", strides = [2,2]', "5,4"),
        ('auto_pad = "SAME_LOWER", strides = [2,2]', "5,4"),
        ('auto_pad = "VALID"', "7,6"),
    ],
)
def test_windows(attributes: str, output: str) -> None:
    text = f"g (float[N,12,9,8] X) => (float[N,20,{output}] Y) {{ Y = Conv <{attributes}> (X, w) }}"
    blocked(text, CONV, w=noise(20, 12, 3, 3))


def test_one_and_three_spatial_axes() -> None:
    text = "g (float[N,12,9] X) => (float[N,20,7] Y) { Y = Conv(X, w) }"
    blocked(text, CONV, w=noise(20, 12, 3))
    text = "g (float[N,3,4,5,6] X) => (float[N,10,3,4,5] Y) { c = Conv(X, w)  Y = Relu(c) }"
    blocked(text, {**FIRST, "Relu": 1}, w=noise(10, 3, 2, 2, 2))


@pytest.mark.parametrize(
    ("groups", "channels", "outputs"),
    [(12, 12, 12), (8, 8, 8), (2, 16, 32), (3, 24, 24), (1, 9, 9), (4, 56, 44), (4, 16, 16), (2, 48, 12)],
)
def test_groups(groups: int, channels: int, outputs: int) -> None:
    text = f"g (float[N,{channels},5,5] X) => (float[N,{outputs},5,5] Y)"
    text += f" {{ Y = Conv <group = {groups}, pads = [1,1,1,1]> (X, w, b) }}"
    blocked(text, CONV, w=noise(outputs, channels // groups, 3, 3), b=noise(outputs))


@pytest.mark.parametrize(("groups", "channels", "outputs"), [(2, 12, 16), (8, 8, 16), (8, 16, 16)])
def test_groups_of_too_few_channels(groups: int, channels: int, outputs: int) -> None:
    text = f"g (float[N,{channels},5,5] X) => (float[N,{outputs},5,5] Y) {{ Y = Conv <group = {groups}> (X, w) }}"
    weights = {"w": noise(outputs, channels // groups, 1, 1)}
    check_declines(BLOCK8, text, "its groups have too few channels for blocks", weights=weights)


def test_what_a_convolution_must_have() -> None:
    text = "g (float[N,8,H,W] X) => (float[N,8,H,W] Y) { Y = Conv(X, w) }"
    weights = {"w": noise(8, 8, 1, 1)}
    check_declines(BLOCK8, text, "channels or spatial sizes are not known", weights=weights)
    text = "g (float[N,8,4,4] X, float[8,8,1,1] w) => (float[N,8,4,4] Y) { Y = Conv(X, w) }"
    check_declines(BLOCK8, text, "the weight or the bias is computed")
    text = "g (float[N,8,4,4] X, float[8] b) => (float[N,8,4,4] Y) { Y = Conv(X, w, b) }"
    check_declines(BLOCK8, text, "the weight or the bias is computed", weights=weights)
    text = "g (double[N,8,4,4] X) => (double[N,8,4,4] Y) { Y = Conv(X, w) }"
    reason = "its element types have no kernel on blocked values"
    check_declines(BLOCK8, text, reason, weights={"w": noise(8, 8, 1, 1).astype(np.float64)})
    text = "g (float[N,8,4,4] X) => (float[N,8,4,4] Y) { Y = Conv(X, w) }"
    check_declines(AssignLayout(), text, "no target with vectors, and no block, is given", weights=weights)
    cuda = load_target("cuda:sm_90")
    check_declines(AssignLayout(), text, "no target with vectors, and no block, is given", weights=weights, target=cuda)
    old = '<ir_version: 8, opset_import: ["" : 17]> ' + text
    check_declines(BLOCK8, old, "the model's opset is older than 18", weights=weights)


def test_without_a_convolution_nothing_is_blocked() -> None:
    check_declines(BLOCK8, "g (float[N,8,4,4] X) => (float[N,8,4,4] Y) { a = Relu(X)  Y = Add(a, X) }")


@pytest.mark.parametrize("block", [-8, 1, 6])
def test_blocks_that_are_none(block: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        AssignLayout(block=block)


UNARY = [
    *("Abs(c)", "Ceil(c)", "Clip(c, lo, hi)", "Clip(c, , hi)", "Elu <alpha = 0.5> (c)", "Erf(c)", "Exp(c)", "Floor(c)"),
    *("Gelu(c)", "HardSigmoid <alpha = 0.1> (c)", "HardSwish(c)", "LeakyRelu <alpha = 0.2> (c)", "Mish(c)", "Neg(c)"),
    *("Reciprocal(c)", "Relu(c)", "Round(c)", "Selu(c)", "Sigmoid(c)", "Sign(c)", "Softplus(c)", "Softsign(c)"),
    *("Swish(c)", "Tanh(c)", "ThresholdedRelu(c)", "PRelu(c, slope)", "Identity(c)", "Dropout(c)"),
]


@pytest.mark.parametrize("op", UNARY)
def test_unary(op: str) -> None:
    text = f"g (float[N,12,4,5] X) => (float[N,12,4,5] Y) {{ c = Conv(X, w)  u = {op}  Y = Conv(u, w) }}"
    name = op[: op.index("(")].split(" ")[0]
    expected = {"graphopt::BlockedConv": 2, "graphopt::ToBlocked": 1, "graphopt::FromBlocked": 1}
    if name not in ("Identity", "Dropout"):
        expected[name] = 1
    weights = {"w": noise(12, 12, 1, 1), "lo": np.float32(-0.5), "hi": np.float32(0.7), "slope": noise(12, 1, 1)}
    blocked(text, expected, **weights)


OPERANDS = [
    *(
        (),
        (1,),
        (1, 1, 1, 1),
        (12, 1, 1),
        (1, 12, 1, 1),
        (5,),
        (4, 5),
        (1, 4, 1),
        (12, 4, 5),
        (1, 12, 4, 1),
        (2, 1, 4, 5),
    ),
    (2, 12, 4, 5),
]


@pytest.mark.parametrize("shape", OPERANDS)
@pytest.mark.parametrize("op", ["Add", "Div", "Max"])
def test_constant_operands(op: str, shape: tuple[int, ...]) -> None:
    text = f"g (float[2,12,4,5] X) => (float[2,12,4,5] Y) {{ c = Conv(X, w)  Y = {op}(c, s) }}"
    constant = np.abs(noise(*shape)) + np.float32(0.5)
    blocked(text, {**CONV, op: 1}, w=noise(12, 12, 1, 1), s=constant)
    text = f"g (float[2,12,4,5] X) => (float[2,12,4,5] Y) {{ c = Conv(X, w)  Y = {op}(s, c) }}"
    blocked(text, {**CONV, op: 1}, w=noise(12, 12, 1, 1), s=constant)


def test_a_residual_sum() -> None:
    text = """g (float[N,12,4,5] X) => (float[N,12,4,5] Y) {
        a = Conv(X, w)  b = Conv(a, v)  s = Add(a, b)  Y = Relu(s) }"""
    expected = {**CONV, "graphopt::BlockedConv": 2, "Add": 1, "Relu": 1}
    blocked(text, expected, w=noise(12, 12, 1, 1), v=noise(12, 12, 1, 1, seed=1))


def test_a_sum_with_a_plain_value() -> None:
    """The plain operand is blocked too, so that what follows stays blocked."""
    text = "g (float[N,12,4,5] X) => (float[N,12,4,5] Y) { t = Softmax(X)  a = Conv(X, w)  Y = Add(t, a) }"
    blocked(text, {**CONV, "graphopt::ToBlocked": 2, "Add": 1, "Softmax": 1}, w=noise(12, 12, 1, 1))


def test_scales_of_whole_planes_and_of_all_channels() -> None:
    text = """g (float[N,12,4,5] X) => (float[N,12,4,5] Y) {
        a = Conv(X, w)  p = GlobalAveragePool(a)  q = Conv(p, w)  s = Sigmoid(q)  m = Mul(a, s)
        t = Conv(m, one)  Y = Mul(m, t) }"""
    model = blocked(
        text,
        {
            "graphopt::BlockedConv": 3,
            "graphopt::ToBlocked": 1,
            "graphopt::FromBlocked": 2,
            "ReduceMean": 1,
            "Sigmoid": 1,
            "Mul": 2,
            "Unsqueeze": 1,
        },
        w=noise(12, 12, 1, 1),
        one=noise(1, 12, 1, 1),
    )
    assert value_named(model, "Y").shape == ("N", 12, 4, 5)


def test_one_channel_is_not_broadcast_in_a_block() -> None:
    text = "g (float[N,8,4,5] X) => (float[N,12,4,5] Y) { a = Conv(X, w)  c = Conv(a, v)  Y = Add(c, s) }"
    weights = {"w": noise(8, 8, 1, 1), "v": noise(1, 8, 1, 1), "s": noise(1, 12, 1, 1)}
    check_pass(BLOCK8, text, weights=weights, counts={"nodes blocked": 2})


def test_operands_that_are_not_understood() -> None:
    text = "g (float[N,12,4,5] X, float[12,1,1] s) => (float[N,12,4,5] Y) { a = Conv(X, w)  Y = Add(a, s) }"
    model = check_pass(BLOCK8, text, weights={"w": noise(12, 12, 1, 1)}, counts={"nodes blocked": 1})
    assert nodes(model) == {**CONV, "Add": 1}


def test_batch_normalization() -> None:
    text = """g (float[N,12,4,5] X) => (float[N,12,4,5] Y) {
        a = Conv(X, w)  r = Relu(a)  n = BatchNormalization <epsilon = 0.01> (r, s, b, m, v)  Y = Relu(n) }"""
    arrays = {"s": noise(12), "b": noise(12, seed=1), "m": noise(12, seed=2), "v": np.abs(noise(12, seed=3))}
    blocked(text, {**CONV, "Relu": 2, "Mul": 1, "Add": 1}, w=noise(12, 12, 1, 1), **arrays)


@pytest.mark.parametrize(
    ("op", "output"),
    [
        ("MaxPool <kernel_shape = [3,2], strides = [2,1], pads = [1,0,0,1]> (c)", "4,7"),
        ("MaxPool <kernel_shape = [2,2], strides = [2,2], ceil_mode = 1> (c)", "5,4"),
        ("MaxPool <kernel_shape = [2,2], dilations = [2,3]> (c)", "7,4"),
        ("AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (c)", "9,7"),
        ("AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1> (c)", "9,7"),
        ('AveragePool <kernel_shape = [3,3], auto_pad = "SAME_LOWER", strides = [2,2]> (c)', "5,4"),
        ("GlobalAveragePool(c)", "1,1"),
        ("GlobalMaxPool(c)", "1,1"),
        ("ReduceMean(c, axes)", "1,1"),
        ("ReduceMax(c, last)", "9,1"),
    ],
)
@pytest.mark.parametrize("channels", [12, 16])
def test_pooling(op: str, output: str, channels: int) -> None:
    text = f"g (float[N,12,9,7] X) => (float[N,{channels},{output}] Y) {{ c = Conv(X, w)  Y = {op} }}"
    weights = {"w": noise(channels, 12, 1, 1), "axes": np.array([2, 3]), "last": np.array([-1])}
    name = op[: op.index("(")].split(" ")[0]
    name = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}.get(name, name)
    back = "Reshape" if output == "1,1" and channels == 16 else "graphopt::FromBlocked"
    blocked(text, {"graphopt::BlockedConv": 1, "graphopt::ToBlocked": 1, name: 1, back: 1}, **weights)


@pytest.mark.parametrize(
    ("op", "output", "reason"),
    [
        ("Y, I = MaxPool <kernel_shape = [2,2]> (c)", "12,3,3", "the places of the maxima are used"),
        ("Y = ReduceMean(c, both)", "1,1,4", "it reduces over more than spatial axes"),
        ("Y = ReduceMean <keepdims = 0> (c, one)", "4,4", "it drops the axes it reduces over"),
        ("Y = ReduceMean(c)", "1,1,1", "it reduces over all axes, or which ones is not known"),
    ],
)
def test_pooling_that_stays_plain(op: str, output: str, reason: str) -> None:
    indices = ", int64[N,12,3,3] I" if "I =" in op else ""
    text = f"g (float[N,12,4,4] X) => (float[N,{output}] Y{indices}) {{ c = Conv(X, w)  {op} }}"
    declined(text, reason, {"w": noise(12, 12, 1, 1), "both": np.array([1, 2]), "one": np.array([1])})


def test_pooling_over_three_axes_stays_plain() -> None:
    text = """g (float[N,12,4,4,4] X) => (float[N,12,3,3,3] Y) {
        c = Conv(X, w)  Y = MaxPool <kernel_shape = [2,2,2]> (c) }"""
    declined(text, "it pools over more than 2 axes", {"w": noise(12, 12, 1, 1, 1)})


@pytest.mark.parametrize("limit", range(8))
def test_any_number_of_rewrites_leaves_a_whole_model(limit: int) -> None:
    """Bisection and `--pass-limit` stop the pass anywhere."""
    text = """g (float[N,12,4,5] X) => (float[N,12,4,5] Y, float[N,12,4,5] Z) {
        a = Conv(X, w)  Z = Relu(a)  b = Conv(Z, w)  c = Concat <axis = 2> (b, Z)
        d = Slice(c, zero, four, axes)  e = Add(d, Z)  Y = Mul(e, s) }"""
    weights = {"w": noise(12, 12, 1, 1), "s": noise(12, 1, 1)}
    model = model_of(text, {**weights, "zero": np.array([0]), "four": np.array([4]), "axes": np.array([2])})
    infer_shapes(model)
    original, allowed = model.copy(), iter([True] * limit)
    context = PassContext(model, gate=lambda node: next(allowed, False))
    BLOCK8.run(model.graph, context)
    verify(model)
    assert context.counts["nodes blocked"] == min(limit, 7)
    check_numbers(BLOCK8, original, model)
