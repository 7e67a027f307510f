"""Transposed convolutions as pointwise ones, and where their channels go."""

from __future__ import annotations

import numpy as np
import pytest

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


@pytest.mark.parametrize(
    ("attributes", "kernel", "reason"),
    [
        ("strides = [2,2]", (3, 3), "its windows overlap or leave gaps"),
        ("strides = [3,3]", (2, 2), "its windows overlap or leave gaps"),
        ("strides = [2,3]", (2, 3), "its kernel is no square"),
        ("strides = [2,2], pads = [1,0,0,0]", (2, 2), "it is grouped, dilated or padded"),
        ("strides = [2,2], output_padding = [1,1]", (2, 2), "it is grouped, dilated or padded"),
        ("strides = [2,2], group = 2", (2, 2), "it is grouped, dilated or padded"),
        ("strides = [2,2], dilations = [2,2]", (2, 2), "it is grouped, dilated or padded"),
        ("strides = [2,2], output_shape = [9,9]", (2, 2), "it is grouped, dilated or padded"),
    ],
)
def test_others_are_left_alone(attributes: str, kernel: tuple[int, int], reason: str) -> None:
    text = f"g (float[1,4,4,4] X) => (float[1,O,H,W] Y) {{ Y = ConvTranspose <{attributes}> (X, w) }}"
    check_declines(PASS, text, reason, weights={"w": noise(4, 2, *kernel)})


def test_a_computed_weight() -> None:
    text = """g (float[1,4,4,4] X, float[4,2,2,2] W) => (float[1,2,8,8] Y) {
        Y = ConvTranspose <strides = [2,2]> (X, W) }"""
    check_declines(PASS, text, "the weight or the bias is computed")


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
