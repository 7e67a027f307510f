"""The definitions of graphopt's own operators, run by ONNX Runtime and compared with numpy."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt import io, operators
from graphopt.driver.optimizing import optimize
from graphopt.errors import VerificationError
from graphopt.ir import Model, verify
from graphopt.ir.text import parse
from graphopt.proof.oracle import Reference
from graphopt.rewriting.rewriter import Rewriter
from tests.helpers import model_of
from tests.passes.layout.support import nodes, noise


def model_with(body: str, inputs: str = "float[a,b,...] X", opset: int = 18) -> Model:
    header = f'<ir_version: 10, opset_import: ["" : {opset}, "graphopt" : 1]>'
    model = parse(f"{header} g ({inputs}) => (float[] Y) {{ {body} }}")
    rewriter = Rewriter(model.graph)
    rewriter.set_type(model.graph.outputs[0], None)
    for op_type in operators.OPERATORS:
        operators.declare(rewriter, op_type)
    verify(model)
    return model


def blocked(array: np.ndarray, block: int) -> np.ndarray:
    batch, channels, *sizes = array.shape
    rest = -channels % block
    full = np.concatenate([array, np.zeros((batch, rest, *sizes), array.dtype)], axis=1)
    return np.moveaxis(full.reshape(batch, (channels + rest) // block, block, *sizes), 2, -1)


@pytest.mark.parametrize("opset", [18, 20, 24])
@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 8, 2, 3), (2, 1, 1, 1), (1, 17, 2, 1, 3), (0, 5, 2, 2), (3, 4)])
def test_to_blocked_and_back(shape: tuple[int, ...], opset: int) -> None:
    array = noise(*shape)
    there = model_with("Y = graphopt.ToBlocked <block = 4> (X)", f"float[{','.join(map(str, shape))}] X", opset)
    with Reference(there) as reference:
        result = reference.run({"X": array})["Y"]
    np.testing.assert_array_equal(result, blocked(array, 4))
    sizes = ",".join(map(str, result.shape))
    back = model_with(f"Y = graphopt.FromBlocked <channels = {shape[1]}> (X)", f"float[{sizes}] X", opset)
    with Reference(back) as reference:
        np.testing.assert_array_equal(reference.run({"X": result})["Y"], array)


def test_lanes_behind_the_last_channel_are_not_read() -> None:
    array = blocked(noise(1, 5, 4, 4), 4)
    array[:, 1, :, :, 1:] = np.nan
    attributes = "block = 4, kernel_shape = [1,1], strides = [1,1], dilations = [1,1], pads = [0,0,0,0], group = 1"
    body = f"c = graphopt.BlockedConv <{attributes}> (X, W)  Y = graphopt.FromBlocked <channels = 3> (c)"
    model = model_with(body, "float[1,2,4,4,4] X, float[3,5,1,1] W")
    with Reference(model) as reference:
        assert np.isfinite(reference.run({"X": array, "W": noise(3, 5, 1, 1)})["Y"]).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_an_integer_convolution_of_a_blocked_value(groups: int) -> None:
    random = np.random.default_rng(0)
    data = random.integers(0, 256, (2, 6, 5, 7)).astype(np.uint8)
    weight = random.integers(-128, 128, (20, 6 // groups, 3, 3)).astype(np.int8)
    attributes = f"kernel_shape = [3,3], strides = [2,1], dilations = [1,1], pads = [1,1,0,1], group = {groups}"
    types = f"int8[20,{6 // groups},3,3] W"
    plain = model_with(f"Y = ConvInteger <{attributes}> (X, W)", f"uint8[2,6,5,7] X, {types}")
    body = f"Y = graphopt.BlockedConvInteger <block = 16, {attributes}> (X, W)"
    model = model_with(body, f"uint8[2,2,5,7,4] X, {types}")
    with Reference(plain) as expected, Reference(model) as reference:
        result = reference.run({"X": blocked(data, 4), "W": weight})["Y"]
        np.testing.assert_array_equal(result, blocked(expected.run({"X": data, "W": weight})["Y"], 16))


def test_a_function_is_declared_once_and_not_for_old_opsets() -> None:
    model = model_with("Y = graphopt.ToBlocked <block = 4> (X)", "float[1,4,2,2] X")
    version = model.version
    operators.declare(Rewriter(model.graph), "ToBlocked")
    assert model.version == version
    function = model.functions[operators.DOMAIN, "ToBlocked", ""]
    with pytest.raises(ValueError, match="exists already"):
        Rewriter(model.graph).add_function(function)
    old = model_of('<ir_version: 8, opset_import: ["" : 17]> g (float[1] X) => (float[1] Y) { Y = Relu(X) }')
    with pytest.raises(ValueError, match="opset 18"):
        operators.declare(Rewriter(old.graph), "ToBlocked")


def blocked_network() -> tuple[Model, Model]:
    text = """g (float[N,3,6,5] X) => (float[N,20,6,5] Y) {
        a = Conv(X, w)  r = Relu(a)  b = Conv(r, v)  Y = Mul(b, b) }"""
    original = model_of(text, {"w": noise(12, 3, 1, 1), "v": noise(20, 12, 1, 1)})
    model, _ = optimize(original, "default,infer-shapes,assign-layout{block=8}", verify=True)
    return original, model


def test_a_blocked_model_stays_blocked_when_it_is_optimized_again() -> None:
    _, model = blocked_network()
    again, report = optimize(io.load(io.to_proto(model)), "default,layout,assign-layout{block=8}", verify=True)
    assert nodes(again) == nodes(model)
    step = next(step for step in report.steps if step.name == "inline-functions")
    assert step.misses == {"it is an operator of graphopt's own": 3}


def test_a_model_blocked_otherwise_keeps_its_blocks() -> None:
    _, model = blocked_network()
    again, _ = optimize(model, "assign-layout{block=4}", verify=True)
    assert nodes(again) == nodes(model)


def test_the_verifier_sees_operators_whose_function_is_missing() -> None:
    model = model_with("Y = graphopt.ToBlocked <block = 4> (X)", "float[1,4,2,2] X")
    Rewriter(model.graph).remove_function((operators.DOMAIN, "ToBlocked", ""))
    with pytest.raises(VerificationError, match="no function that defines it"):
        verify(model)
