"""The pipeline `compact`: positions in 8 bits, derived scales of biases, short names. Files shrink, results stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.passes.cleanup.shorten_names import ShortenNames
from graphopt.passes.quantization.derive_bias_scales import DeriveBiasScales
from graphopt.passes.quantization.quantize_tables import QuantizeTables
from graphopt.proof.oracle import run_reference
from tests.fashion import MOBILENET, labelled, samples
from tests.helpers import check_declines, check_pass, model_of
from tests.passes.quantization.measuring import noise, random, run

DQ = "DequantizeLinear"
RNG = np.random.default_rng(0)
STORED = {
    "w": RNG.integers(-127, 128, (16, 3, 1, 1)).astype(np.int8),
    "sw": RNG.uniform(0.01, 0.02, 16).astype(np.float32),
    "b": RNG.integers(-1000, 1000, 16).astype(np.int32),
    "sx": np.float32(0.037),
    "sv": np.array([0.037], np.float32),
    "z": np.uint8(128),
}
STORED["sb"] = STORED["sx"] * STORED["sw"]
CONV = f"""g (float[1,3,4,4] X) => (float[1,16,4,4] Y) {{
    q = QuantizeLinear(X, SX, z)  x = {DQ}(q, SX, z)  v = {DQ}<axis = 0>(w, sw)  c = {DQ}<axis = 0>(b, sb)
    Y = Conv(x, v, c)
}}"""


def used(text: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in weights.items() if f"({name}," in text or f" {name}" in text}


@pytest.mark.parametrize("scale", ["sx", "sv"])
def test_the_scale_of_a_bias_is_computed(scale: str) -> None:
    text = CONV.replace("SX", scale)
    ops = {"Mul": 1, "Conv": 1, "QuantizeLinear": 1, "DequantizeLinear": 3}
    check_pass(DeriveBiasScales(), text, weights=used(text, STORED), ops=ops, counts={"rewritten": 1})


def test_another_scale_stays() -> None:
    text = CONV.replace("SX", "sx")
    weights = used(text, STORED) | {"sb": np.nextafter(STORED["sb"], np.float32(1))}
    reason = "the scale of its bias is not the product of the others"
    check_declines(DeriveBiasScales(), text, weights=weights, reason=reason)


def test_positions_that_are_added_become_integers() -> None:
    weights = random(0, p=(49, 32))
    model = model_of(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[2,49,32] X) => (float[2,49,32] Y) { Y = Add(X, p) }',
        weights,
    )
    changed, report = run(model, QuantizeTables())
    assert report.steps[0].counts == {"rewritten": 1}
    assert 0 < noise(model, changed, [random(1, X=(2, 49, 32))]) < 0.004
    _, report = run(model, QuantizeTables(least=2000))
    assert not report.steps[0].changed
    with pytest.raises(ValueError, match="least must be"):
        QuantizeTables(least=0)


def test_names_get_short_except_those_that_callers_and_reports_use() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[2,3] image) => (float[2,3] logits) {
        [layer] encoder_product = MatMul(image, encoder_weights)  logits = Relu(encoder_product)
    }"""
    model = model_of(text, {"encoder_weights": np.eye(3, dtype=np.float32)})
    changed, report = run(model, ShortenNames())
    assert report.steps[0].counts == {"values renamed": 2}
    assert [value.name for value in (*changed.graph.inputs, *changed.graph.outputs)] == ["image", "logits"]
    assert {value.name for value in changed.graph.values()} == {"image", "logits", "0", "1"}
    assert next(iter(changed.graph.nodes)).name == "layer"
    assert noise(model, changed, [{"image": np.ones((2, 3), np.float32)}]) == 0
    _, report = run(changed, ShortenNames())
    assert not report.steps[0].counts


def test_the_file_of_a_network_shrinks_and_computes_the_same(tmp_path: Path) -> None:
    images, _ = labelled(50)
    files = {}
    for passes in ("quantize", "quantize,compact"):
        model, _ = graphopt.optimize(MOBILENET, passes, samples=samples(8))
        files[passes] = tmp_path / f"{len(files)}.onnx"
        graphopt.save(model, files[passes])
        onnx.checker.check_model(str(files[passes]), full_check=True)
    before, after = (run_reference(path, {"image": images})["logits"] for path in files.values())
    assert np.array_equal(before, after)
    assert files["quantize,compact"].stat().st_size < 0.27 * MOBILENET.stat().st_size
    artifact = graphopt.compile(files["quantize,compact"])
    assert (artifact.run({"image": images})["logits"].argmax(1) == np.asarray(after).argmax(1)).mean() > 0.95
