"""raise-opset: formerly experimental operators, compared with ONNX Runtime, which still runs them; and group norms."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt import io
from graphopt.errors import ModelWarning
from graphopt.ir import Shape, infer_shapes
from graphopt.ir.read_proto import read_model
from graphopt.passes.normalize.experimental_adapters import EXPERIMENTAL
from graphopt.passes.normalize.raise_opset import RaiseOpset
from graphopt.proof.oracle import Reference
from graphopt.rewriting.pipeline import PassManager, Pipeline

RNG = np.random.default_rng(9)
CASES: dict[str, list[dict[str, Any]]] = {
    "Affine": [{"alpha": 2.5, "beta": -1.0}],
    "Crop": [{"border": [1, 2, 0, 1]}, {"border": [1, 0, 0, 0], "scale": [3, 2]}, {"border": [0, 0, 2, 0]}],
    "DynamicSlice": [{}],
    "ImageScaler": [{"scale": 0.5, "bias": [1.0, -2.0]}, {"bias": [0.0, 1.0]}],
    "MeanVarianceNormalization": [{}, {"across_channels": 1}],
    "ParametricSoftplus": [{"alpha": 1.5, "beta": -2.0}],
    "Scale": [{"scale": -3.0}, {}],
    "ScaledTanh": [{"alpha": 2.0, "beta": 0.5}],
    "ThresholdedRelu": [{"alpha": 0.3}, {}],
}


def test_every_experiment_is_here() -> None:
    assert set(EXPERIMENTAL) < set(CASES)


@pytest.mark.parametrize(("op_type", "attributes"), [(op, a) for op, sets in CASES.items() for a in sets])
def test_an_old_experiment(op_type: str, attributes: dict[str, Any]) -> None:
    bounds = {"starts": [1, -3], "ends": [4, 9], "axes": [2, 3]} if op_type == "DynamicSlice" else {}
    weights = [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in bounds.items()]
    nodes = [helper.make_node(op_type, ["x", *bounds], ["m"], **attributes), helper.make_node("Relu", ["m"], ["y"])]
    sides = [helper.make_tensor_value_info("x", 1, ["n", 2, 5, 6]), helper.make_tensor_value_info("y", 1, [None] * 4)]
    graph = helper.make_graph(nodes, "g", sides[:1], sides[1:], weights)
    check(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=7), (2, 2, 5, 6))


@pytest.mark.parametrize(
    ("op_type", "attributes", "shape"),
    [
        ("Affine", {"alpha": 2.5}, ("n", 2, 5, 6)),
        ("Crop", {"border": [1, 2, 0, 1]}, ("n", 2, 2, 5)),
        ("Crop", {"border": [1, 0, 0, 0], "scale": [3, 2]}, ("n", 2, 3, 2)),
        ("DynamicSlice", {}, ("n", 2, 1, 3)),
    ],
)
def test_types_of_old_experiments_are_inferred(op_type: str, attributes: dict[str, Any], shape: Shape) -> None:
    bounds = {"starts": [1, -3], "ends": [2, 9], "axes": [2, 3]} if op_type == "DynamicSlice" else {}
    weights = [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in bounds.items()]
    nodes = [helper.make_node(op_type, ["x", *bounds], ["m"], **attributes), helper.make_node("Relu", ["m"], ["y"])]
    sides = [helper.make_tensor_value_info("x", 1, ["n", 2, 5, 6]), helper.make_tensor_value_info("y", 1, [None] * 4)]
    graph = helper.make_graph(nodes, "g", sides[:1], sides[1:], weights)
    model = read_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=7))
    infer_shapes(model)
    for name in "my":
        value = model.graph.find(name)
        assert value is not None
        assert value.shape == shape


@pytest.mark.parametrize("op_type", ["Crop", "DynamicSlice"])
def test_cuts_that_do_not_say_where_are_declined(op_type: str) -> None:
    sides = [helper.make_tensor_value_info(name, 1, ["n", 2, 5, 6]) for name in "xy"]
    graph = helper.make_graph([helper.make_node(op_type, ["x"], ["y"])], "g", sides[:1], sides[1:])
    model = read_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=7))
    report = PassManager(Pipeline.of(RaiseOpset())).run(model)
    assert dict(report.steps[0].misses) == {f"{op_type}: it does not say what to crop": 1}
    assert model.opset == 8


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("channels", [6, 2])
def test_group_norms_scale_channels_since_opset_21(channels: int, dtype: Any) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2, epsilon=1e-3)
    sides = [helper.make_tensor_value_info(name, kind, ["n", channels, "length"]) for name in "xy"]
    numbers = [helper.make_tensor_value_info(name, kind, [2]) for name in "sb"]
    graph = helper.make_graph([node], "g", [sides[0], *numbers], sides[1:])
    more = {name: RNG.normal(size=2).astype(dtype) for name in "sb"}
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    check(proto, (3, channels, 5), dtype, more)


def check(proto: onnx.ModelProto, shape: tuple[int, ...], dtype: Any = np.float32, more: Any = None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelWarning)
        model = io.load(proto)
    raised = model.copy()
    PassManager(Pipeline.of(RaiseOpset())).run(raised)
    assert raised.opset > 20
    onnx.checker.check_model(io.to_proto(raised))
    feeds = {"x": RNG.normal(size=shape).astype(dtype), **(more or {})}
    with Reference(proto) as before, Reference(raised) as after:
        want, got = before.run(feeds)["y"], after.run(feeds)["y"]
    assert got.shape == want.shape
    np.testing.assert_allclose(
        got, want, rtol=1e-2 if dtype is np.float16 else 1e-5, atol=1e-2 if dtype is np.float16 else 1e-6
    )
