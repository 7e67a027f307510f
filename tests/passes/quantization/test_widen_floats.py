"""widen-floats: what is computed in float32 instead of 16 bits, and what keeps its type."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir import DType, Model
from graphopt.passes.quantization.widen_floats import WidenFloats
from tests.helpers import model_of
from tests.passes.quantization.measuring import OPSET, feeds, noise, random, run
from tests.passes.quantization.test_convert_float import NETWORK, WEIGHTS


def kinds(model: Model) -> dict[str, DType | None]:
    """The type of the result of each operator, without casts."""
    return {node.op: node.output.dtype for node in model.graph.all_nodes() if node.op != "Cast"}


def test_a_network_in_float16_becomes_what_it_was() -> None:
    model = model_of(NETWORK, WEIGHTS)
    samples = feeds(4, X=(2, 3, 8, 8))
    half, _ = run(model, "convert-float,eliminate-dead", samples)
    wide, report = run(half, "widen-floats,eliminate-dead")
    assert report.counts["widen-floats/nodes in float32"] == 9
    without = [node.op for node in wide.graph.nodes if node.op != "Cast"]
    assert without == [node.op for node in model.graph.nodes]
    assert set(kinds(wide).values()) == {DType.FLOAT}
    assert noise(half, wide, samples) < 2e-3


@pytest.mark.parametrize("to", ["float16", "bfloat16"])
def test_only_matrices_of_products_stay_narrow(to: str) -> None:
    model = model_of(
        NETWORK.replace("float[N,5]", "float[N,40]"),
        random(0, w1=(8, 3, 3, 3), b1=(8,), w2=(8, 8, 3, 3), b2=(8,), w3=(40, 8), b3=(40,)),
    )
    narrow, _ = run(model, f"convert-float{{to={to}}},eliminate-dead", feeds(4, X=(2, 3, 8, 8)))
    wide, _ = run(narrow, "widen-floats,assign-layout{block=8},eliminate-dead")
    assert sum(node.op.endswith(("BlockedConv", "ConvToBlocked")) for node in wide.graph.nodes) == 2
    (cast,) = (node for node in wide.graph.nodes if node.op == "Cast")
    assert [user.op for user in cast.output.users] == ["Gemm"]
    assert noise(narrow, wide, feeds(2, X=(2, 3, 8, 8))) < 2e-3


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_inputs_and_outputs_keep_their_types(kind: str) -> None:
    text = f"""{OPSET} g ({kind}[4,5] X) => ({kind}[4,5] Y, {kind}[4,5] Z) {{
        a = Cast<to=1>(X)  b = Sin(a)  c = Cast<to={16 if kind == "bfloat16" else 10}>(b)
        Y = Add(c, X)  d = Neg(Y)  Z = Abs(d) }}"""
    wide, _ = run(model_of(text), "widen-floats,eliminate-dead")
    assert kinds(wide) == {"Sin": DType.FLOAT, "Add": DType.FLOAT, "Neg": DType.FLOAT, "Abs": DType.FLOAT}
    assert [node.op for node in wide.graph.nodes].count("Cast") == 3  # of X, of Y and of Z


def test_rounding_that_a_model_asks_for_stays() -> None:
    text = f"""{OPSET} g (float[4,5] X) => (float[4,5] Y, bool[4,5] Z, int64[4,5] I) {{
        a = Cast<to=10>(X)  Y = Cast<to=1>(a)  b = Cast<to=10>(X)  Z = IsInf(b)  I = Cast<to=7>(b) }}"""
    model = model_of(text)
    wide, report = run(model, "widen-floats")
    assert not report.counts.get("widen-floats/nodes in float32")
    assert [node.op for node in wide.graph.nodes] == [node.op for node in model.graph.nodes]


def test_values_that_nested_graphs_read() -> None:
    text = f"""{OPSET} g (float[4] X, bool c) => (float[4] Y) {{
        h = Cast<to=10>(X)  r = Relu(h)
        z = If(c) <then_branch = t () => (float16[4] u) {{ u = Neg(r) }},
                   else_branch = e () => (float16[4] v) {{ v = Identity(r) }}>
        m = Mul(z, r)  Y = Cast<to=1>(m) }}"""
    model = model_of(text)
    samples = [{**random(i, X=(4,)), "c": np.array(i % 2 > 0)} for i in range(4)]
    wide, _ = run(model, "widen-floats,eliminate-dead")
    found = kinds(wide)
    assert found.pop("If") is DType.FLOAT16
    assert set(found.values()) == {DType.FLOAT}
    assert noise(model, wide, samples) < 2e-3


def test_every_operand_of_a_type_variable() -> None:
    text = f"""{OPSET} g (float16[1,3,4,4] X) => (float16[1,3,8,8] Y) {{
        Y = Resize<mode="linear">(X, none, scales) }}"""
    constants = {"scales": np.array([1, 1, 2, 2], np.float32), "none": np.zeros(0, np.float16)}
    wide, _ = run(model_of(text, constants), WidenFloats())
    (resize,) = (node for node in wide.graph.nodes if node.op == "Resize")
    assert resize.output.dtype is DType.FLOAT
    assert [v.dtype for v in resize.inputs if v is not None] == [DType.FLOAT] * 3
