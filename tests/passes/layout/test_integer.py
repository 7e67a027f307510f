"""Blocked integers: convolutions without zero points, and what is between them in a quantized network."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir import Model
from graphopt.passes.layout.assign_layout import AssignLayout
from graphopt.proof.tolerance import EXACT, Tolerance
from tests.helpers import check_declines, check_pass
from tests.passes.layout.support import BLOCK8, nodes

RNG = np.random.default_rng(0)
CONV = {"graphopt::BlockedConvInteger": 1, "graphopt::ToBlocked": 1, "graphopt::FromBlocked": 1}


def integers(*shape: int) -> np.ndarray:
    return RNG.integers(-128, 128, shape).astype(np.int8)


def blocked(text: str, expected: dict[str, int], pass_: AssignLayout = BLOCK8, **weights: np.ndarray) -> Model:
    """Run the pass with every check of `check_pass`: blocked integers are the same bits."""
    model = check_pass(pass_, text, weights=weights, changes=True, tol=EXACT)
    assert nodes(model) == expected
    return model


@pytest.mark.parametrize("outputs", [5, 8, 12, 17])
@pytest.mark.parametrize("channels", [1, 3, 4, 5, 8, 12, 17])
def test_channels(channels: int, outputs: int) -> None:
    text = f"g (uint8[2,{channels},5,6] X) => (int32[2,{outputs},3,4] Y) {{ Y = ConvInteger(X, w) }}"
    model = blocked(text, CONV, w=integers(outputs, channels, 3, 3))
    (conv,) = (node for node in model.graph.nodes if node.op_type == "BlockedConvInteger")
    assert conv.inputs[0] is not None
    assert conv.inputs[0].shape is not None
    assert conv.inputs[0].shape[-1] == (4 if channels <= 4 else 8)
    assert conv.output.shape == (2, -(-outputs // 8), 3, 4, 8)


@pytest.mark.parametrize("block", [4, 16])
def test_blocks(block: int) -> None:
    text = "g (uint8[1,20,5,6] X) => (int32[1,12,3,4] Y) { Y = ConvInteger(X, w) }"
    blocked(text, CONV, AssignLayout(block=block), w=integers(12, 20, 3, 3))


@pytest.mark.parametrize(
    ("attributes", "output"),
    [
        ("pads = [1,0,2,3], strides = [2,3]", "5,3"),
        ("dilations = [2,1], pads = [2,1,2,1]", "9,8"),
        ('auto_pad = "SAME_LOWER", strides = [2,2]', "5,4"),
    ],
)
def test_windows(attributes: str, output: str) -> None:
    text = f"g (uint8[1,12,9,8] X) => (int32[1,20,{output}] Y) {{ Y = ConvInteger<{attributes}>(X, w) }}"
    blocked(text, CONV, w=integers(20, 12, 3, 3))
    blocked(text.replace("1,12,9", "1,3,9"), CONV, w=integers(20, 3, 3, 3))


@pytest.mark.parametrize(
    ("groups", "channels", "outputs", "joined"),
    [(12, 12, 12, 1), (8, 8, 8, 1), (2, 16, 32, 1), (4, 16, 16, 1), (4, 12, 20, 4), (2, 6, 10, 2), (8, 16, 24, 4)],
)
def test_groups(groups: int, channels: int, outputs: int, joined: int) -> None:
    text = f"g (uint8[1,{channels},5,5] X) => (int32[1,{outputs},5,5] Y)"
    text += f" {{ Y = ConvInteger<group = {groups}, pads = [1,1,1,1]>(X, w) }}"
    model = blocked(text, CONV, w=integers(outputs, channels // groups, 3, 3))
    (conv,) = (node for node in model.graph.nodes if node.op_type == "BlockedConvInteger")
    assert conv.attr("group") == groups // joined


def test_groups_of_too_few_channels() -> None:
    text = "g (uint8[1,10,5,5] X) => (int32[1,20,5,5] Y) { Y = ConvInteger<group = 5>(X, w) }"
    reason = "its groups have too few channels for blocks"
    check_declines(AssignLayout(block=16), text, reason, weights={"w": integers(20, 2, 1, 1)})


def test_what_is_between_convolutions() -> None:
    text = """g (float[2,3,9,9] X) => (float[2,10,1,1] Y) {
        q0 = QuantizeLinear(X, s, z) c0 = ConvInteger<pads = [1,1,1,1]>(q0, w0) a0 = Add(c0, b0) f0 = Cast<to = 1>(a0)
        v0 = Mul(f0, m0) q1 = QuantizeLinear(v0, one, z) p1 = MaxPool<kernel_shape = [2,2]>(q1)
        r1 = Pad(p1, pads, z) c1 = ConvInteger(r1, w1) f1 = Cast<to = 1>(c1) v1 = Mul(f1, m1)
        d1 = DequantizeLinear(p1, s, z) e1 = Add(v1, d1) q2 = QuantizeLinear(e1, one, z) q3 = Concat<axis = 1>(q2, p1)
        d3 = DequantizeLinear(q3, s, z) g = GlobalAveragePool(d3) q4 = QuantizeLinear(g, t, z)
        c4 = ConvInteger(q4, w4) f4 = Cast<to = 1>(c4) Y = Mul(f4, s) }"""
    weights = {"w0": integers(16, 3, 3, 3), "w1": integers(16, 16, 3, 3), "w4": integers(10, 32, 1, 1)}
    weights |= {"b0": RNG.integers(-9, 9, (16, 1, 1)).astype(np.int32), "z": np.array(5, np.uint8)}
    weights |= {"s": np.array(0.1, np.float32), "t": np.array(0.05, np.float32), "one": np.array(1, np.float32)}
    weights |= {name: np.linspace(1, 2, 16).astype(np.float32).reshape(16, 1, 1) * 1e-3 for name in ("m0", "m1")}
    weights["pads"] = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    step = Tolerance.uniform(0.02)  # the mean of a pool is summed in another order
    model = check_pass(BLOCK8, text, weights=weights, changes=True, tol=step)
    found = nodes(model)
    conversions = {name: found.get(f"graphopt::{name}") for name in ("ToBlocked", "FromBlocked", "BlockedConvInteger")}
    assert conversions == {"ToBlocked": 1, "FromBlocked": 1, "BlockedConvInteger": 3}


def test_what_stays_plain() -> None:
    text = "g (uint8[1,8,5,5] X) => (int32[1,8,5,5] Y) { Y = ConvInteger(X, w, z) }"
    weights = {"w": integers(8, 8, 1, 1), "z": np.array(3, np.uint8)}
    check_declines(BLOCK8, text, "its element types have no kernel on blocked values", weights=weights)
    text = "g (uint8[1,8,H,5] X) => (int32[1,8,H,5] Y) { Y = ConvInteger(X, w) }"
    check_declines(BLOCK8, text, "channels or spatial sizes are not known", weights=weights)
    text = "g (uint8[1,8,5,5] X) => (int32[1,4,5,5] Y) { Y = ConvInteger(X, w) }"
    check_declines(BLOCK8, text, "its result would not fill half a block", weights={"w": integers(4, 8, 1, 1)})


def test_scales_of_channels_are_made_plain() -> None:
    text = """g (uint8[1,8,5,5] X) => (uint8[1,8,5,5] Y) { c = ConvInteger(X, w) f = Cast<to = 1>(c)
        Y = QuantizeLinear<axis = 1>(f, s, z) }"""
    weights = {"w": integers(8, 8, 1, 1), "s": np.linspace(90, 99, 8).astype(np.float32), "z": np.zeros(8, np.uint8)}
    blocked(text, {**CONV, "Cast": 1, "QuantizeLinear": 1}, **weights)
