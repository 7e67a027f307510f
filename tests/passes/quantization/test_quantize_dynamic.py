"""quantize-dynamic: forms, errors, and that ONNX Runtime computes on integers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnxruntime
import pytest

from graphopt import io
from graphopt.errors import PassError
from graphopt.passes.quantization.quantize_dynamic import QuantizeDynamic
from tests.helpers import model_of
from tests.passes.quantization.measuring import OPSET, array, feeds, network, noise, random, run

CASES = {
    "matmul": ("MatMul(X, w)", {"w": (40, 9)}, (3, 40)),
    "sequences": ("MatMul(X, w)", {"w": (40, 9)}, (2, 3, 40)),
    "gemm": ("Gemm(X, w, b)", {"w": (40, 9), "b": (9,)}, (3, 40)),
    "transposed": ("Gemm<transB=1>(X, w, b)", {"w": (9, 40), "b": (9,)}, (3, 40)),
    "conv": ("Conv<pads=[1,1,1,1], strides=[2,1]>(X, w, b)", {"w": (6, 8, 3, 3), "b": (6,)}, (2, 8, 7, 9)),
    "grouped": ("Conv<group=2>(X, w)", {"w": (6, 4, 3, 3)}, (2, 8, 7, 9)),
    "along one axis": ("Conv<pads=[1,1]>(X, w, b)", {"w": (6, 8, 3), "b": (6,)}, (2, 8, 30)),
}


def case(name: str) -> tuple[Any, list[dict[str, np.ndarray]]]:
    body, shapes, data = CASES[name]
    model = network(f"Y = {body}", shapes, data)
    return model, feeds(4, X=data)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("options", [{}, {"per_channel": False}, {"reduce_range": True, "weights": "min-max"}])
def test_products(name: str, options: dict[str, Any]) -> None:
    model, samples = case(name)
    for feed in samples[2:]:
        feed["X"] = feed["X"] * 100 + 50  # another range at each run costs nothing
    changed, report = run(model, QuantizeDynamic(convolutions=True, **options))
    assert report.counts["quantize-dynamic/products quantized"] == 1
    for optimize in (False, True):
        for feed in samples:
            assert 0 < noise(model, changed, [feed], optimize) < 0.03
    (integers,) = (v for v in changed.graph.values() if v.constant is not None and v.constant.dtype.text == "int8")
    assert np.abs(array(integers)).max() == (63 if options.get("reduce_range") else 127)


def test_data_that_several_products_read_are_quantized_once() -> None:
    text = f"{OPSET} g (float[3,8] X) => (float[3,8] Y) {{ a = MatMul(X, w)  b = MatMul(X, w)  Y = Add(a, b) }}"
    changed, _ = run(model_of(text, random(0, w=(8, 8))), QuantizeDynamic())
    found = Counter(node.op for node in changed.graph.nodes)
    assert found["DynamicQuantizeLinear"] == 1
    one, other = (node for node in changed.graph.nodes if node.op == "MatMulInteger")
    assert one.inputs[1] is other.inputs[1]


def test_onnx_runtime_fuses_what_it_wrote_itself(tmp_path: Any) -> None:
    changed, _ = run(case("transposed")[0], QuantizeDynamic())
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(io.to_proto(changed).SerializeToString(), options)
    found = [node.op_type for node in io.load(tmp_path / "optimized.onnx").graph.nodes]
    assert found == ["DynamicQuantizeMatMul"]


@pytest.mark.parametrize(
    ("body", "shapes", "options", "reason"),
    [
        ("MatMul(X, X)", {}, {}, "MatMul: its weights are not constant"),
        ("MatMul(X, w)", {"w": (2, 8, 8)}, {}, "MatMul: its weights are no matrix"),
        ("Gemm<alpha=0.5>(X, w)", {"w": (8, 8)}, {}, "Gemm: it is scaled or transposed"),
        ("MatMul(X, w)", {"w": (8, 8)}, {"ignore": ("MatMul",)}, "MatMul: it is to be left alone"),
        ("Relu(X)", {}, {}, "it has no matmul"),
    ],
)
def test_nothing_to_quantize(body: str, shapes: Any, options: Any, reason: str) -> None:
    rank = "A,B,C" if len(shapes.get("w", ())) == 3 else "A,B"
    model = model_of(f"{OPSET} g (float[8,8] X) => (float[{rank}] Y) {{ Y = {body} }}", random(0, **shapes))
    with pytest.raises(PassError, match=f"nothing to quantize .*{reason}"):
        run(model, QuantizeDynamic(**options))


def test_convolutions_stay_unless_asked_for() -> None:
    with pytest.raises(PassError, match="nothing to quantize"):
        run(case("conv")[0], QuantizeDynamic())


def test_an_old_opset() -> None:
    text = '<ir_version: 7, opset_import: ["" : 10]> g (float[3,8] X) => (float[3,8] Y) { Y = MatMul(X, w) }'
    with pytest.raises(PassError, match="opset 10 has no DynamicQuantizeLinear"):
        run(model_of(text, random(0, w=(8, 8))), QuantizeDynamic())


@pytest.mark.parametrize("options", [{"weights": "entropy"}, {"ignore": ("re:(",)}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|no regular expression"):
        QuantizeDynamic(**options)
