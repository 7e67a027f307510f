"""raise-opset: each operator whose form changed, from its old form, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt import io
from graphopt.ir.read_proto import read_model
from graphopt.ir.text import parse
from graphopt.passes.normalize.raise_opset import RaiseOpset
from graphopt.proof.oracle import run_reference
from graphopt.rewriting.pipeline import PassManager, Pipeline
from tests.helpers import check_declines, check_pass, model_of

RNG = np.random.default_rng(3)

OLD_FORMS = {
    "squeeze": (11, "(float[1,3,1] X) => (float[A,B] Y) { Y = Squeeze<axes=[0]>(X) }"),
    "squeeze all": (11, "(float[1,3,1] X) => (float[A] Y) { Y = Squeeze(X) }"),
    "squeeze of axes in any order": (10, "(float[3,1,4,1] X) => (float[A,B] Y) { Y = Squeeze<axes=[3,1]>(X) }"),
    "squeeze from the end": (7, "(float[3,1,4,1] X) => (float[A,B,C] Y) { Y = Squeeze<axes=[-1]>(X) }"),
    "unsqueeze from the end": (9, "(float[3,4] X) => (float[A,B,C] Y) { Y = Unsqueeze<axes=[-1]>(X) }"),
    "dropout of no probability": (7, "(float[5] X) => (float[5] Y) { Y = Dropout<ratio=-0.5>(X) }"),
    "mean and variance": (9, "(float[2,3,4,1] X) => (float[2,3,4,1] Y) { Y = MeanVarianceNormalization(X) }"),
    "unsqueeze": (11, "(float[3] X) => (float[A,B,C] Y) { Y = Unsqueeze<axes=[0,2]>(X) }"),
    "reduce sum": (11, "(float[2,3,4] X) => (float[A,B] Y) { Y = ReduceSum<axes=[1], keepdims=0>(X) }"),
    "reduce all": (11, "(float[2,3,4] X) => (float[A,B,C] Y) { Y = ReduceSum(X) }"),
    "reduce mean": (17, "(float[2,3,4] X) => (float[A,B,C] Y) { Y = ReduceMean<axes=[-1]>(X) }"),
    "reduce l2": (13, "(float[2,3,4] X) => (float[A,B,C] Y) { Y = ReduceL2<axes=[0,1]>(X) }"),
    "softmax of a matrix": (11, "(float[2,3,4] X) => (float[2,3,4] Y) { Y = Softmax(X) }"),
    "softmax of the last axis": (11, "(float[2,3,4] X) => (float[2,3,4] Y) { Y = Softmax<axis=2>(X) }"),
    "softmax before ones": (7, "(float[2,3,1,1] X) => (float[2,3,1,1] Y) { Y = Softmax(X) }"),
    "softmax of a dynamic shape": (11, "(float[N,3,M] X) => (float[N,3,M] Y) { Y = Softmax<axis=1>(X) }"),
    "log softmax": (11, "(float[2,3,4] X) => (float[2,3,4] Y) { Y = LogSoftmax<axis=-2>(X) }"),
    "hardmax": (11, "(float[2,3,4] X) => (float[2,3,4] Y) { Y = Hardmax(X) }"),
    "clip": (10, "(float[5] X) => (float[5] Y) { Y = Clip<min=-0.5, max=0.25>(X) }"),
    "clip below": (7, "(float[5] X) => (float[5] Y) { Y = Clip<min=0.0>(X) }"),
    "pad": (10, "(float[2,3] X) => (float[A,B] Y) { Y = Pad<pads=[0,1,2,0], value=1.5>(X) }"),
    "pad of zeros": (7, "(float[2,3] X) => (float[A,B] Y) { Y = Pad<pads=[0,1,2,0]>(X) }"),
    "pad by reflection": (10, '(float[2,3] X) => (float[A,B] Y) { Y = Pad<pads=[0,1,0,0], mode="reflect">(X) }'),
    "slice": (9, "(float[4,5] X) => (float[A,B] Y) { Y = Slice<axes=[1], starts=[-3], ends=[9]>(X) }"),
    "slice without axes": (9, "(float[4,5] X) => (float[A,B] Y) { Y = Slice<starts=[1,0], ends=[3,2]>(X) }"),
    "split in sizes": (11, "(float[6] X) => (float[A] Y, float[B] Z) { Y, Z = Split<split=[2,4]>(X) }"),
    "split evenly": (11, "(float[6] X) => (float[A] Y, float[B] Z) { Y, Z = Split(X) }"),
    "split evenly since 13": (13, "(float[6] X) => (float[A] Y, float[B] Z) { Y, Z = Split(X) }"),
    "topk": (9, "(float[3,6] X) => (float[A,B] Y, int64[A,B] I) { Y, I = TopK<k=2>(X) }"),
    "dropout": (11, "(float[3] X) => (float[3] Y) { Y = Dropout<ratio=0.3>(X) }"),
    "dropout with its mask unused": (9, "(float[3] X) => (float[3] Y) { Y, m = Dropout<ratio=0.3>(X) }"),
    "scatter": (10, "(float[3,3] X, float[1,2] U) => (float[3,3] Y) <int64[1,2] i = {0,2}> { Y = Scatter(X, i, U) }"),
    "upsample": (9, "(float[1,2,3,3] X) => (float[A,B,C,D] Y) <float[4] s = {1.,1.,2.,2.}> { Y = Upsample(X, s) }"),
    "upsample linear": (
        7,
        '(float[1,1,3,2] X) => (float[A,B,C,D] Y) { Y = Upsample<mode="linear", scales=[1.,1.,2.,3.]>(X) }',
    ),
    "resize": (10, "(float[1,2,3,3] X) => (float[A,B,C,D] Y) <float[4] s = {1.,1.,1.5,2.}> { Y = Resize(X, s) }"),
    "resize with empty roi and scales": (
        11,
        "(float[1,1,4,4] X) => (float[A,B,C,D] Y) <float[0] r = {}, float[0] s = {}, int64[4] z = {1,1,7,3}> "
        '{ Y = Resize<mode="linear">(X, r, s, z) }',
    ),
    "grid sample": (
        16,
        '(float[1,1,3,3] X, float[1,2,2,2] G) => (float[1,1,2,2] Y) { Y = GridSample<mode="bilinear">(X, G) }',
    ),
    "an operator that did not change": (7, "(float[3] X) => (float[3] Y) { Y = Relu(X) }"),
    "one inside an If": (
        11,
        "(bool c, float[1,3] X) => (float[A] Y) { Y = If(c) <"
        "then_branch = t () => (float[A] y) { y = Squeeze<axes=[0]>(X) }, "
        "else_branch = e () => (float[A] y) { s = ReduceSum<axes=[1], keepdims=0>(X)  y = Add(s, s) }> }",
    ),
}


def header(opset: int, body: str) -> str:
    return f'<ir_version: 7, opset_import: ["" : {opset}]> g {body}'


@pytest.mark.parametrize("case", OLD_FORMS)
def test_old_form(case: str) -> None:
    opset, body = OLD_FORMS[case]
    model = check_pass(RaiseOpset(), header(opset, body), changes=True)
    assert model.opset == 24
    onnx.checker.check_model(io.to_proto(model), full_check=True)


@pytest.mark.parametrize(
    ("opset", "clip"), [(8, "Clip<max=1.0>(X)"), (8, "Clip<min=-1.0>(X)"), (11, 'Clip(X, "", one)'), (11, "Clip(X)")]
)
def test_bounds_of_half_floats_that_were_left_out_are_infinite(opset: int, clip: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["": {opset}]>
        g (float16[N] X) => (float16[N] Y) {{ Y = {clip} }}"""
    if "one" in clip:
        text = text.replace("{ Y", "<float16 one = {15360}> { Y")  # the bits of 1
    check_pass(RaiseOpset(), text, inputs={"X": np.array([-np.inf, np.inf, np.nan, -65504, 65504, 0.5], np.float16)})


def test_types_that_are_not_declared_do_not_stop_a_clip() -> None:
    text = """<ir_version: 8, opset_import: ["": 11]>
        g (float[N] X) => (float[N] Y) <float zero = {0}> { t = Neg(X)  u = Clip(t, zero)  Y = Abs(u) }"""
    model = read_model(onnx.parser.parse_model(text))
    PassManager(Pipeline.of(RaiseOpset())).run(model)
    assert model.opset == 24


def test_softmax_of_no_elements() -> None:
    model = model_of(header(11, "(float[N,3,M] X) => (float[N,3,M] Y) { Y = Softmax<axis=1>(X) }"))
    PassManager(Pipeline.of(RaiseOpset())).run(model)
    for shape in ((0, 3, 2), (2, 3, 0)):
        assert run_reference(model, {"X": np.zeros(shape, np.float32)})["Y"].shape == shape


def test_an_operator_that_is_a_function_to_the_runtime_until_its_body_changes() -> None:
    """Of int64, ONNX Runtime has no PRelu but what ONNX defines it by, whose CastLike is another one in opset 19."""
    body = "(int64[5] X) => (int64[5] Y) <int64[1] s = {3}> { Y = PRelu(X, s) }"
    assert check_pass(RaiseOpset(), header(16, body), changes=True).opset == 18


@pytest.mark.parametrize("to", [13, 18, 21])
def test_lower_goals(to: int) -> None:
    text = (
        "(float[2,4,4] X) => (float[A,B,C] Y) { s = ReduceMean<axes=[1]>(X)  a, b = Split<axis=2>(s)  Y = Softmax(b) }"
    )
    model = check_pass(RaiseOpset(to=to), header(11, text), changes=True)
    assert model.opset == to


def test_batch_norm_of_an_old_opset() -> None:
    weights = {name: RNG.uniform(0.5, 2, 3).astype(np.float32) for name in "sbmv"}
    text = "(float[2,3,4] X) => (float[2,3,4] Y) { Y = BatchNormalization<spatial=1>(X, s, b, m, v) }"
    model = check_pass(RaiseOpset(), header(8, text), weights=weights, changes=True)
    assert "spatial" not in model.graph.nodes.first.attributes


def test_declines() -> None:
    mask = "(float[3] X) => (float[3] Y, float[3] M) { Y, M = Dropout(X) }"
    check_declines(RaiseOpset(), header(9, mask), "Dropout: its mask, which was not boolean before opset 10, is used")
    weights = {name: np.ones((3, 4), np.float32) for name in "sbmv"}
    spatial = "(float[2,3,4] X) => (float[2,3,4] Y) { Y = BatchNormalization<spatial=0>(X, s, b, m, v) }"
    reason = "BatchNormalization: it normalizes each position by itself (spatial=0), which opset 9 took away"
    check_declines(RaiseOpset(), header(8, spatial), reason, weights=weights)
    old = "(float[3] X) => (float[3] Y) { t = Relu(X)  Y = Add(t, t) }"
    check_declines(RaiseOpset(), header(6, old), "Add: opset 6 is older than 7, where broadcasting changed")


def test_one_node_that_cannot_go_keeps_the_others() -> None:
    """Half a model in another opset would be wrong: nothing moves."""
    text = "(float[1,3] X) => (float[3] Y, float[3] M) { t = Squeeze<axes=[0]>(X)  Y, M = Dropout(t) }"
    check_declines(RaiseOpset(), header(9, text), "Dropout: its mask, which was not boolean before opset 10, is used")


def test_a_recent_model_stays() -> None:
    check_declines(RaiseOpset(), "g (float[3] X) => (float[3] Y) { Y = Relu(X) }")


def test_option_is_checked() -> None:
    with pytest.raises(Exception, match="to must be 7 to 24"):
        Pipeline.parse("raise-opset{to=99}")


def test_pass_limit_keeps_the_opset() -> None:
    """A gate that refuses one adaptation must not leave a model between two opsets."""
    from graphopt.rewriting.pipeline import Observer

    class Refuse(Observer):
        def allow(self, step: object, node: object) -> bool:
            return False

    model = parse(header(11, "(float[1,3] X) => (float[3] Y) { Y = Squeeze<axes=[0]>(X) }"))
    PassManager(Pipeline.parse("raise-opset"), [Refuse()]).run(model)
    assert model.opset == 11
