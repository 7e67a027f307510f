"""Transposed convolutions as ordinary ones, and the positions of their channels."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphopt.passes.layout.expand_conv_transpose import ExpandConvTranspose
from tests.helpers import check_declines, check_pass
from tests.passes.layout.support import blocked, declined, noise

PASS = ExpandConvTranspose()


@pytest.mark.parametrize(("factor", "outputs"), [(2, 24), (2, 1), (3, 5), (1, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_windows_side_by_side(factor: int, outputs: int, bias: bool) -> None:
    weights = {"w": noise(6, outputs, factor, factor), **({"b": noise(outputs)} if bias else {})}
    given = "(X, w, b)" if bias else "(X, w)"
    text = f"""g (float[N,6,4,3] X) => (float[N,{outputs},{4 * factor},{3 * factor}] Y) {{
        Y = ConvTranspose <strides = [{factor},{factor}]> {given} }}"""
    expected = {"Conv": 1, "DepthToSpace": 1} if factor > 1 else {"Conv": 1}
    check_pass(PASS, text, weights=weights, ops=expected, counts={"rewritten": 1})


CONVS_8 = {"Conv": 8, "Concat": 1, "DepthToSpace": 1, "Slice": 1}


@pytest.mark.parametrize(
    ("attributes", "shapes", "expected"),
    [
        # Each phase reads other inputs: a convolution for each.
        ("strides = [2,2], pads = [1,1,1,1]", ("8,5,4", (8, 16, 4, 4)), {"Conv": 4, "Concat": 1, "DepthToSpace": 1}),
        (
            "strides = [2,2], pads = [1,1,1,1], output_padding = [1,1]",
            ("4,5,4", (4, 8, 3, 3)),
            {"Conv": 4, "Concat": 1, "DepthToSpace": 1},
        ),
        # An odd size is cut off an even one.
        ("strides = [2,2]", ("4,5,4", (4, 8, 3, 3)), {"Conv": 4, "Concat": 1, "DepthToSpace": 1, "Slice": 1}),
        # Too few channels for convolutions of their own: all phases in one, of which the first are cut off.
        ("strides = [2,2], pads = [1,1,1,1]", ("8,5,4", (8, 3, 4, 4)), {"Conv": 1, "DepthToSpace": 1, "Slice": 1}),
        ("strides = [4,4], pads = [2,2,2,2]", ("4,5,4", (4, 1, 8, 8)), {"Conv": 1, "DepthToSpace": 1, "Slice": 1}),
        # The phases differ in how many taps they have.
        ("strides = [4,4], pads = [4,4,4,4]", ("4,5,4", (4, 1, 9, 9)), CONVS_8),
        ("pads = [1,0,1,2]", ("4,5,4", (4, 8, 3, 3)), {"Conv": 1}),
        ("dilations = [2,1]", ("4,5,4", (4, 8, 3, 3)), {"Conv": 1}),
        ("strides = [2,2], dilations = [3,1]", ("4,5,4", (4, 8, 4, 4)), {"Conv": 2, "Concat": 1, "DepthToSpace": 1}),
        # Groups keep their channels, depthwise ones too.
        ("strides = [2,2], group = 2", ("4,5,4", (4, 8, 2, 2)), {"Conv": 4, "Concat": 1, "DepthToSpace": 1}),
        ("strides = [8,8], group = 4", ("4,5,4", (4, 1, 8, 8)), {"Conv": 1, "DepthToSpace": 1}),
        (
            "strides = [2,2], pads = [1,1,1,1], group = 8",
            ("8,5,4", (8, 1, 4, 4)),
            {"Conv": 4, "Concat": 1, "DepthToSpace": 1},
        ),
        # Neither two axes nor the same strides: what DepthToSpace cannot say.
        ("strides = [4]", ("4,5", (4, 8, 4)), {"Conv": 1, "Reshape": 2, "Transpose": 1}),
        ("strides = [4], pads = [2,2]", ("4,5", (4, 8, 8)), {"Conv": 2, "Concat": 1, "Reshape": 2, "Transpose": 1}),
        ("strides = [2,3]", ("4,5,4", (4, 8, 2, 3)), {"Conv": 1, "Reshape": 2, "Transpose": 1}),
        ("strides = [2,1,2]", ("4,3,4,2", (4, 8, 2, 1, 2)), {"Conv": 1, "Reshape": 2, "Transpose": 1}),
        ("strides = [16], group = 2", ("4,5", (4, 2, 16)), {"Conv": 1, "Reshape": 2, "Transpose": 1}),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_windows_that_overlap(
    attributes: str, shapes: tuple[str, tuple[int, ...]], expected: dict[str, int], bias: bool
) -> None:
    sizes, kernel = shapes
    text, weights = transposed(attributes, f"N,{sizes}", kernel, bias)
    check_pass(PASS, text, weights=weights, ops=expected, counts={"rewritten": 1})


@pytest.mark.parametrize(
    "attributes",
    [
        "strides = [2,3], output_shape = [11,13]",
        "strides = [2,2], output_shape = [8,7]",
        'strides = [2,2], auto_pad = "SAME_UPPER"',
        'strides = [3,2], auto_pad = "SAME_LOWER"',
        'strides = [2,2], auto_pad = "VALID"',
        "strides = [2,2], pads = [2,2,2,2]",
        "strides = [3,2], pads = [2,1,0,2], output_padding = [2,1]",
    ],
)
@pytest.mark.parametrize("outputs", [1, 8])
def test_what_the_size_of_the_result_follows_from(attributes: str, outputs: int) -> None:
    text, weights = transposed(attributes, "N,4,5,4", (4, outputs, 3, 3), bias=True)
    check_pass(PASS, text, weights=weights, counts={"rewritten": 1})


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_any_axis(data: st.DataObject) -> None:
    kernel, stride, dilation = (data.draw(st.integers(1, most)) for most in (7, 5, 3))
    span = (kernel - 1) * dilation
    size = data.draw(st.integers(1, 6))
    begin, end = (data.draw(st.integers(0, span)) for _ in range(2))
    extra = data.draw(st.integers(0, stride - 1))
    assume((size - 1) * stride + span + 1 + extra > begin + end)
    groups, outputs = data.draw(st.sampled_from([(1, 1), (1, 8), (2, 3), (4, 1)]))
    attributes = f"strides = [{stride}], dilations = [{dilation}], pads = [{begin},{end}]"
    attributes += f", output_padding = [{extra}], group = {groups}"
    text, weights = transposed(attributes, f"2,4,{size}", (4, outputs, kernel), bias=True)
    given = noise(2, 4, size)
    given[0, 1, size // 2] = np.inf
    check_pass(PASS, text, weights=weights, inputs=[{"X": given}])


def test_sizes_that_are_not_known() -> None:
    weights = {"w": noise(4, 8, 4, 4), "v": noise(4, 2, 6)}
    text = """g (float[N,4,H,W] X, float[N,4,L] Z) => (float[N,8,A,B] Y, float[N,2,C] V) {
        Y = ConvTranspose <strides = [2,2], pads = [1,1,1,1]> (X, w)  V = ConvTranspose <strides = [3]> (Z, v) }"""
    expected = {"Conv": 5, "Concat": 1, "DepthToSpace": 1, "Reshape": 2, "Transpose": 1}
    shapes = {"X": [2, 4, 3, 5], "Z": [2, 4, 6]}
    check_pass(PASS, text, weights=weights, ops=expected, shapes=shapes)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("strides = [2,3]", "more than one size of its input is not known"),
        ("strides = [2,2], output_shape = [9,9]", "its result has a fixed size, its input has not"),
    ],
)
def test_sizes_that_must_be_known(attributes: str, reason: str) -> None:
    text = f"g (float[1,4,H,W] X) => (float[1,2,A,B] Y) {{ Y = ConvTranspose <{attributes}> (X, w) }}"
    check_declines(PASS, text, reason, weights={"w": noise(4, 2, 3, 3)})


def transposed(attributes: str, sizes: str, kernel: tuple[int, ...], bias: bool) -> tuple[str, dict[str, np.ndarray]]:
    """A model of one ConvTranspose, and its weights; its input is X."""
    group = re.search(r"group = (\d+)", attributes)
    weights = {"w": noise(*kernel)}
    if bias:
        weights["b"] = noise(kernel[1] * int(group[1] if group else 1))
    result = ",".join(["N", "O", *"PQR"[: len(kernel) - 2]])
    given_ = "(X, w, b)" if bias else "(X, w)"
    return f"g (float[{sizes}] X) => (float[{result}] Y) {{ Y = ConvTranspose <{attributes}> {given_} }}", weights


@pytest.mark.parametrize(
    ("attributes", "kernel"),
    [
        ("strides = [3,3]", (4, 8, 2, 2)),
        ("strides = [2,2], dilations = [2,2]", (4, 3, 2, 2)),
    ],
)
def test_kernels_that_leave_gaps(attributes: str, kernel: tuple[int, ...]) -> None:
    """Zeros in the place of the taps that a phase lacks would make NaN of an infinity."""
    text, weights = transposed(attributes, "N,4,5,4", kernel, bias=False)
    check_declines(PASS, text, "its phases are many and read different inputs, or one reads none", weights=weights)


def test_weights_that_are_no_finite_numbers() -> None:
    weights = {"w": noise(4, 8, 3, 3)}
    weights["w"][1, 2, 0, 1] = np.inf
    text, _ = transposed("strides = [2,2]", "N,4,5,4", (4, 8, 3, 3), bias=False)
    check_declines(
        PASS,
        text,
        "a weight is no finite number: times the zeros of a convolution's padding, it is NaN",
        weights=weights,
    )


def test_a_computed_weight() -> None:
    text = """g (float[1,4,4,4] X, float[4,2,2,2] W) => (float[1,2,8,8] Y) {
        Y = ConvTranspose <strides = [2,2]> (X, W) }"""
    check_declines(PASS, text, "the weight or the bias is computed, or not scaled by channel")


def test_depth_to_space_of_whole_blocks() -> None:
    text = """g (float[N,16,3,5] X) => (float[N,16,6,10] Y) {
        c = Conv(X, w)  d = DepthToSpace <blocksize = 2> (c)  Y = Relu(d) }"""
    expected = {"graphopt::ToBlocked": 1, "graphopt::FromBlocked": 1, "graphopt::BlockedConv": 1}
    blocked(text, {**expected, "Reshape": 2, "Transpose": 1, "Relu": 1}, w=noise(64, 16, 1, 1))


@pytest.mark.parametrize(("mode", "outputs"), [("CRD", 64), ("DCR", 48)])
def test_depth_to_space_that_mixes_lanes(mode: str, outputs: int) -> None:
    text = f"""g (float[1,16,3,5] X) => (float[1,{outputs // 4},6,10] Y) {{
        c = Conv(X, w)  Y = DepthToSpace <blocksize = 2, mode = "{mode}"> (c) }}"""
    declined(text, "its pieces do not fill blocks of channels", {"w": np.asarray(noise(outputs, 16, 1, 1))})


@pytest.mark.parametrize(
    ("attributes", "kernel", "scales", "zero"),
    [
        ("strides = [2,2]", (6, 5, 2, 2), 5, 0),
        ("strides = [2,2]", (6, 5, 2, 2), 1, 3),
        ("strides = [2,2], pads = [1,1,1,1]", (6, 16, 4, 4), 16, -2),
        ("strides = [2,2], pads = [1,1,1,1]", (6, 3, 3, 3), 3, 0),
        # The scales of a group's outputs hold for every group.
        ("strides = [2,2], group = 2", (6, 4, 2, 2), 4, 0),
        ("strides = [4,4], group = 2", (6, 1, 4, 4), 1, 1),
        ("group = 3", (6, 2, 3, 3), 2, 5),
    ],
)
def test_stored_integers(attributes: str, kernel: tuple[int, ...], scales: int, zero: int) -> None:
    """Weights and biases that are dequantized stay integers, with the scales of their channels."""
    outputs = kernel[1] * int(next(iter(re.findall(r"group = (\d)", attributes)), "1"))
    random = np.random.default_rng(3)
    weights = {
        "wq": random.integers(-100, 100, kernel).astype(np.int8),
        "ws": random.uniform(0.01, 0.1, scales).astype(np.float32),
        "wz": np.full(scales, zero, np.int8),
        "bq": random.integers(-1000, 1000, outputs).astype(np.int32),
        "bs": random.uniform(0.001, 0.01, outputs).astype(np.float32),
    }
    text = f"""g (float[N,6,4,3] X) => (float[N,{outputs},H,W] Y) {{
        w = DequantizeLinear <axis = 1> (wq, ws, wz)  b = DequantizeLinear <axis = 0> (bq, bs)
        Y = ConvTranspose <{attributes}> (X, w, b) }}"""
    model = check_pass(PASS, text, weights=weights, counts={"rewritten": 1})
    convolutions = [node for node in model.graph.all_nodes() if node.op == "Conv"]
    assert convolutions
    for node in convolutions:
        for operand in node.inputs[1:]:
            assert operand is not None
            assert operand.producer is not None
            assert operand.producer.op == "DequantizeLinear"


def test_scales_along_what_is_summed() -> None:
    weights = {"wq": np.ones((4, 4, 2, 2), np.int8), "s": np.linspace(0.1, 1, 4).astype(np.float32)}
    text = """g (float[1,4,5,5] X) => (float[1,4,10,10] Y) {
        w = DequantizeLinear <axis = 0> (wq, s)  Y = ConvTranspose <strides = [2,2]> (X, w) }"""
    check_declines(PASS, text, "the weight or the bias is computed, or not scaled by channel", weights=weights)
