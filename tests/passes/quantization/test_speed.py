"""Which products of a quantized model stay floats because a processor computes these faster."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.compression.latency import INTEGERS, Latencies, LayerSizes
from graphopt.driver import backend
from graphopt.driver.optimizing import run_passes
from graphopt.driver.tuning import Tuning
from graphopt.hardware.target import Target
from graphopt.ir import Model
from graphopt.passes.quantization._speed import ESTIMATED, MEASURED
from graphopt.passes.quantization.integer_products import IntegerProducts
from graphopt.proof.oracle import run_reference
from graphopt.rewriting.pipeline import Pipeline
from graphopt.rewriting.report import Report
from tests.helpers import model_of

DQ = "DequantizeLinear"
REASON = f"Conv: {ESTIMATED}"


def conv(size: int, channels: int, outputs: int, kernel: int = 3, attributes: str = "", groups: int = 1) -> Model:
    pad = kernel // 2
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, (outputs, channels // groups, kernel, kernel), np.int8)
    text = f"""g (uint8[1,{channels},{size},{size}] X) => (float[N,{outputs},H,W] Y) {{
        x = {DQ}(X, s, z) k = {DQ}<axis = 0>(w, t) b = {DQ}<axis = 0>(i, st)
        Y = Conv<pads = [{pad},{pad},{pad},{pad}], group = {groups} {attributes}>(x, k, b) }}"""
    scale = np.linspace(0.01, 0.02, outputs).astype(np.float32)
    bias = random.integers(-999, 999, outputs).astype(np.int32)
    step = np.array(0.05, np.float32)
    return model_of(
        text, {"w": weight, "t": scale, "s": step, "z": np.array(7, np.uint8), "i": bias, "st": step * scale}
    )


def run(model: Model, target: str | None) -> Report:
    pipeline = Pipeline.parse("infer-shapes").steps + Pipeline.parse(IntegerProducts.name).steps
    return run_passes(model, Pipeline(pipeline), target=target, latencies=latencies(target))


def latencies(name: str | None) -> Latencies | None:
    """Closed forms, whatever was measured on this machine."""
    return None if name is None else backend.load().latencies(Target.load(name), Tuning(use_records=False))


def placed(model: Model, target: str | None) -> str:
    report = run(model, target)
    (op,) = (node.op for node in model.graph.nodes if node.op in ("Conv", "ConvInteger"))
    assert (REASON in report.steps[-1].misses) == (op == "Conv")
    return op


@pytest.mark.parametrize("target", ["x86", "x86:v2", "x86:znver3"])
def test_what_winograd_computes_stays_floats_without_dot_products(target: str) -> None:
    assert placed(conv(56, 64, 64), target) == "Conv"
    assert placed(conv(28, 128, 64), target) == "Conv"
    assert placed(conv(7, 128, 64), target) == ("Conv" if target == "x86:v2" else "ConvInteger")
    assert placed(conv(56, 64, 64, attributes=", strides = [2,2]"), target) == "ConvInteger"
    assert placed(conv(56, 64, 64, attributes=", dilations = [2,2]"), target) == "ConvInteger"
    assert placed(conv(28, 64, 64, kernel=1), target) == "ConvInteger"
    assert placed(conv(28, 64, 64, kernel=5), target) == "ConvInteger"
    assert placed(conv(28, 64, 64, groups=2), target) == "ConvInteger"


def test_wide_vectors_need_larger_images() -> None:
    assert placed(conv(14, 128, 128), "x86:v4") == "ConvInteger"
    assert placed(conv(56, 64, 64), "x86:v4") == "Conv"


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_images_stay_floats_without_dot_products(channels: int) -> None:
    model = conv(28, channels, 64, kernel=5)
    assert placed(model, "x86") == ("Conv" if channels <= 4 else "ConvInteger")
    assert placed(conv(28, channels, 64, kernel=5), "x86:cascadelake") == "ConvInteger"


def test_depthwise_convolutions_stay_floats_without_dot_products() -> None:
    assert placed(conv(14, 32, 32, groups=32), "x86") == "Conv"
    assert placed(conv(14, 32, 32, groups=32), "x86:znver4") == "ConvInteger"


@pytest.mark.parametrize("target", [None, "x86:cascadelake", "x86:znver4", "x86:alderlake", "arm:neoverse-n2", "arm"])
def test_other_machines_multiply_integers(target: str | None) -> None:
    assert placed(conv(56, 64, 64), target) == "ConvInteger"


def test_sizes_that_are_not_known_are_not_transformed() -> None:
    weights = {"w": np.ones((64, 64, 3, 3), np.int8), "s": np.array(0.5, np.float32)}
    for size, op in (("H,56", "ConvInteger"), ("56,56", "Conv")):
        text = f"""g (uint8[1,64,{size}] X) => (float[N,64,h,w] Y) {{
            x = {DQ}(X, s) k = {DQ}(w, s) Y = Conv<pads = [1,1,1,1]>(x, k) }}"""
        assert placed(model_of(text, weights), "x86") == op


class Times:
    """Given times instead of measured ones: integers take `factor` times as long."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def measured(self, sizes: LayerSizes, precision: str) -> float | None:
        return self.factor if precision == INTEGERS else 1.0

    def estimated(self, sizes: LayerSizes, precision: str) -> float:
        raise AssertionError("what was measured is not estimated")


@pytest.mark.parametrize(("factor", "op"), [(1.2, "Conv"), (0.8, "ConvInteger")])
def test_measured_times_decide(factor: float, op: str) -> None:
    model = conv(14, 32, 32, kernel=1)
    passes = f"infer-shapes,{IntegerProducts.name}"
    report = run_passes(model, passes, target="x86:cascadelake", latencies=Times(factor))
    assert op in [node.op for node in model.graph.nodes]
    assert (f"Conv: {MEASURED}" in report.steps[-1].misses) == (op == "Conv")


def test_floats_stand_for_the_same_numbers() -> None:
    """Weights and bias are constants afterwards; the data is still what the integers stand for."""
    model = conv(28, 64, 32)
    before = model.copy()
    run(model, "x86")
    assert [node.op for node in model.graph.nodes] == [DQ, "Conv"]
    data = {"X": np.random.default_rng(1).integers(0, 256, (1, 64, 28, 28)).astype(np.uint8)}
    expected, found = (run_reference(one, data)["Y"] for one in (before, model))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
