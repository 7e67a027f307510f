"""Blocked networks from the pass to code that runs, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt import io, operators
from graphopt.driver.optimizing import run_passes
from graphopt.hardware.target import load as load_target
from graphopt.ir import Model
from graphopt.proof.oracle import Reference
from graphopt.rewriting.rewriter import Rewriter
from graphopt.targets.tvm.codegen import build
from graphopt.targets.tvm.lowering.execute import Runner
from graphopt.targets.tvm.lowering.lower import lower
from graphopt.targets.tvm.machine import machine_of
from tests.helpers import model_of
from tests.random_networks import random_network
from tests.targets.lowering.support import noise, run_model_for_machine


def check(original: Model, *inputs: dict[str, np.ndarray], block: int = 8) -> Model:
    """Block a model, compile it for this machine, and compare with what ONNX Runtime makes of the original."""
    model = original.copy()
    run_passes(model, f"infer-shapes,assign-layout{{block={block}}},eliminate-dead")
    result = lower(model, machine_of(build.tvm_target(load_target("host"))))
    run = Runner(result)
    with Reference(original) as reference:
        for given in inputs:
            expected = reference.run(given)
            outputs = run([given[info.name] for info in result.inputs])
            for info, have in zip(result.outputs, outputs, strict=True):
                want = expected[info.name]
                assert (have.dtype, have.shape) == (want.dtype, want.shape), info.name
                top = np.abs(want[np.isfinite(want)]).max(initial=1e-6)
                np.testing.assert_allclose(have, want, rtol=0, atol=2e-5 * top, err_msg=info.name)
    return model


def has(model: Model, op: str) -> bool:
    return any(node.op == f"graphopt::{op}" for node in model.graph.nodes)


@pytest.mark.parametrize("outputs", [5, 8, 17])
@pytest.mark.parametrize("channels", [1, 3, 8, 12, 24])
def test_layout_changes_and_convolutions(channels: int, outputs: int) -> None:
    text = f"""g (float[N,{channels},7,5] X) => (float[N,{outputs},H,W] Y, float[N,{outputs},G,V] Z) {{
        a = Conv <pads = [1,0,2,1], strides = [2,1]> (X, w, b)  Y = Relu(a)
        Z = Conv <dilations = [2,1], pads = [2,1,1,0]> (Y, v) }}"""
    weights = {"w": noise(outputs, channels, 3, 3), "b": noise(outputs), "v": noise(outputs, outputs, 2, 2)}
    model = check(model_of(text, weights), {"X": noise(1, channels, 7, 5)}, {"X": noise(2, channels, 7, 5, seed=1)})
    assert has(model, "FromBlocked")
    assert has(model, "ConvToBlocked" if channels < 8 else "ToBlocked")


@pytest.mark.parametrize(
    ("groups", "channels", "outputs"), [(12, 12, 12), (2, 16, 32), (17, 17, 17), (2, 24, 12), (4, 56, 44)]
)
def test_groups(groups: int, channels: int, outputs: int) -> None:
    text = f"""g (float[N,{channels},6,5] X) => (float[N,{outputs},6,5] Y) {{
        Y = Conv <group = {groups}, pads = [1,1,1,1]> (X, w, b) }}"""
    weights = {"w": noise(outputs, channels // groups, 3, 3), "b": noise(outputs)}
    assert has(check(model_of(text, weights), {"X": noise(2, channels, 6, 5)}), "BlockedConv")


@pytest.mark.parametrize(
    ("channels", "strides", "pads"), [(16, "2,2", "0,0,0,0"), (12, "3,1", "0,0,0,0"), (16, "2,2", "0,1,0,0")]
)
def test_pointwise_with_strides(channels: int, strides: str, pads: str) -> None:
    """The positions that count are copied together first; not where one lies beside the image."""
    text = f"""g (float[N,{channels},7,6] X) => (float[N,24,H,W] Y) {{
        c = Conv <strides = [{strides}], pads = [{pads}]> (X, w, b)  Y = Relu(c) }}"""
    model = check(model_of(text, {"w": noise(24, channels, 1, 1), "b": noise(24)}), {"X": noise(2, channels, 7, 6)})
    names = [
        gv.name_hint for gv in lower(model, machine_of(build.tvm_target(load_target("host")))).mod.get_global_vars()
    ]
    assert any("subsample" in name for name in names) == (pads == "0,0,0,0")


def test_one_and_three_spatial_axes() -> None:
    text = "g (float[N,12,9] X) => (float[N,20,7] Y) { Y = Conv(X, w) }"
    check(model_of(text, {"w": noise(20, 12, 3)}), {"X": noise(2, 12, 9)})
    text = "g (float[N,3,4,5,6] X) => (float[N,10,4,5,6] Y) { c = Conv <pads = [1,1,1,1,1,1]> (X, w)  Y = Relu(c) }"
    check(model_of(text, {"w": noise(10, 3, 3, 3, 3)}), {"X": noise(1, 3, 4, 5, 6)})


def test_one_channel_behind_a_blocked_value() -> None:
    text = "g (float[N,12,6,5] X) => (float[N,1,6,5] Y) { a = Conv(X, w)  Y = Conv <pads = [1,1,1,1]> (a, v) }"
    weights = {"w": noise(17, 12, 1, 1), "v": noise(1, 17, 3, 3)}
    assert has(check(model_of(text, weights), {"X": noise(2, 12, 6, 5)}), "BlockedConv")


@pytest.mark.parametrize("block", [4, 16])
def test_other_blocks(block: int) -> None:
    text = "g (float[N,20,6,5] X) => (float[N,20,6,5] Y) { a = Conv(X, w)  s = Sigmoid(a)  Y = Mul(a, s) }"
    check(model_of(text, {"w": noise(20, 20, 1, 1)}), {"X": noise(2, 20, 6, 5)}, block=block)


@pytest.mark.parametrize("seed", range(8))
def test_random_networks(seed: int) -> None:
    """Networks of pictures: seeds that make sequences are moved on to the next that does not."""
    seed *= 100
    while len((proto := random_network(seed)).graph.input[0].type.tensor_type.shape.dim) != 4:
        seed += 1
    model = io.load(proto)
    run_passes(model, "default")
    channels = model.graph.inputs[0].shape[1]
    check(model, {"x": noise(2, channels, 8, 8)})


@pytest.mark.parametrize(("groups", "channels", "outputs"), [(17, 17, 17), (2, 16, 32), (4, 56, 44)])
def test_what_is_not_finite_stays_in_its_group(groups: int, channels: int, outputs: int) -> None:
    text = f"""g (float[N,{channels},9,8] X) => (float[N,{outputs},9,8] Y) {{
        a = Conv <group = {channels}> (X, v)  Y = Conv <group = {groups}, pads = [1,1,1,1]> (a, w) }}"""
    data = noise(2, channels, 9, 8)
    data[0, :, 4, 4], data[1, 0, 2, 3], data[1, -1, 7, 7] = 1e30, np.inf, np.nan
    weights = {"v": noise(channels, 1, 1, 1), "w": noise(outputs, channels // groups, 3, 3)}
    assert has(check(model_of(text, weights), {"X": data}), "BlockedConv")


def test_weights_that_are_not_finite() -> None:
    text = "g (float[1,64,28,28] X) => (float[1,64,26,26] Y) { Y = Conv (X, w) }"
    weight = noise(64, 64, 3, 3)
    weight[3, 5, 0, 1], weight[10, 63, 2, 2], weight[40, 0, 1, 0] = np.inf, np.nan, 1e38
    check(model_of(text, {"w": weight}), {"X": noise(1, 64, 28, 28)})


@pytest.mark.parametrize(("groups", "channels", "lanes"), [(1, 16, 16), (1, 3, 4), (32, 32, 16), (2, 64, 16)])
def test_integer_convolutions(groups: int, channels: int, lanes: int) -> None:
    """A requantized convolution of bytes as the passes write it, compiled, gives ONNX Runtime's bytes."""
    random, outputs = np.random.default_rng(1), max(24, groups)
    attributes = f"strides = [2,1], dilations = [1,1], pads = [1,1,0,1], group = {groups}, kernel_shape = [3,3]"
    shape = [2, -(-channels // lanes), 7, 5, lanes]
    header = '<ir_version: 10, opset_import: ["" : 21, "graphopt" : 1]>'
    text = f"""{header} g (uint8[{",".join(map(str, shape))}] X) => (uint8[2,{-(-outputs // 16)},3,5,16] Y) {{
        s = graphopt.BlockedConvInteger <block = 16, {attributes}> (X, w)
        t = Add(s, b)  f = Cast <to = 1> (t)  m = Mul(f, c)  r = Relu(m)  Y = QuantizeLinear(r, one, z) }}"""
    blocks = (1, -(-outputs // 16), 1, 1, 16)
    model = model_of(
        text,
        {
            "w": random.integers(-128, 128, (outputs, channels // groups, 3, 3)).astype(np.int8),
            "b": random.integers(-5000, 5000, blocks).astype(np.int32),
            "c": (random.random(blocks) * 2**-10).astype(np.float32),
            "one": np.float32(1),
            "z": np.uint8(3),
        },
    )
    operators.declare(Rewriter(model.graph), "BlockedConvInteger")
    data = random.integers(0, 256, shape).astype(np.uint8)
    data[:, -1, ..., lanes - (-channels % lanes) :] = 0
    with Reference(model) as reference:
        expected = reference.run({"X": data})["Y"].astype(int)
    ((found,),) = run_model_for_machine(model, {"X": data})
    real = np.s_[:, :, ..., : 16 - -outputs % 16]  # of the last block
    assert np.abs(found.astype(int) - expected)[real].max() <= 1
    assert (found == expected)[real].mean() > 0.999
