"""Models of one layer each, as a compiled network contains it: what is measured to know how long the layer takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from graphopt import io
from graphopt.compression.latency import INTEGERS, LayerSizes
from graphopt.hardware.target import Target
from graphopt.ir import Model, TensorType
from graphopt.operators import DOMAIN, OLDEST_OPSET, declare
from graphopt.rewriting.pipeline import PassManager, Pipeline
from graphopt.rewriting.rewriter import Rewriter

from . import backend

_SCALE, _ZERO = "scale", "zero"
_IMAGE = 4
"""The most channels of an image, which a first layer reads as it is."""


class _Wanted:
    """Times with which every layer stays in the precision that it is built in."""

    def measured(self, sizes: LayerSizes, precision: str) -> float:
        return 0.0 if precision == INTEGERS else 1.0

    def estimated(self, sizes: LayerSizes, precision: str) -> float:
        return self.measured(sizes, precision)


def layer_model(sizes: LayerSizes, precision: str, target: Target) -> Model:
    """Return a layer with its usual epilogue as `compile` lowers it for a target, without changes of layout around it.

    The epilogue of floats is a bias and a Relu; that of integers also makes integers of the result again.
    """
    model = io.load(_proto(sizes, precision == INTEGERS))
    lanes = target.vector_bits // 32
    if sizes.is_conv and target.kind == "cpu" and sizes.data[1] > _IMAGE:
        _block_input(model, sizes, lanes)
    pipeline = Pipeline.parse(backend.load().pipeline(target))
    PassManager(pipeline, target=target, latencies=_Wanted()).run(model)
    result = model.graph.outputs[0]
    if result.producer is not None and result.producer.op == f"{DOMAIN}::FromBlocked":
        last = result.producer
        assert last.inputs[0] is not None
        rewriter = Rewriter(model.graph, last)
        rewriter.set_outputs([last.inputs[0]])
        rewriter.remove(last)
    return model


def _proto(sizes: LayerSizes, integers: bool) -> bytes:
    """Return `Relu(layer(x) + bias)` as a serialized model, in pairs of Q and DQ if on integers."""
    random = np.random.default_rng(0)
    outputs = sizes.weight[0] if sizes.is_conv else sizes.weight[-1]
    constants: dict[str, np.ndarray] = {_SCALE: np.array(0.02, np.float32), _ZERO: np.array(0, np.uint8)}
    inputs = {"x": sizes.data}
    if sizes.constant:
        numbers = random.integers(-100, 100, sizes.weight).astype(np.int8)
        constants["w"] = numbers if integers else numbers.astype(np.float32) / 1000
    else:
        inputs["w"] = sizes.weight
    nodes, data, weight, bias = [], "x", "w", "b"
    constants["b"] = random.integers(-100, 100, outputs).astype(np.int32 if integers else np.float32)
    if integers:
        axis = 0 if sizes.is_conv else 1
        constants["steps"] = np.linspace(0.01, 0.02, outputs).astype(np.float32)
        constants["sums"] = constants["steps"] * constants[_SCALE]
        nodes.append(helper.make_node("DequantizeLinear", ["x", _SCALE, _ZERO], ["data"]))
        weights = ["w", "steps"] if sizes.constant else ["w", _SCALE, _ZERO]
        nodes.append(helper.make_node("DequantizeLinear", weights, ["weight"], axis=axis))
        nodes.append(helper.make_node("DequantizeLinear", ["b", "sums"], ["bias"], axis=0))
        data, weight, bias = "data", "weight", "bias"
    nodes += _product(sizes, data, weight, bias)
    nodes.append(helper.make_node("Relu", ["sum"], ["positive" if integers else "y"]))
    if integers:
        nodes.append(helper.make_node("QuantizeLinear", ["positive", _SCALE, _ZERO], ["y"]))
    type_ = TensorProto.UINT8 if integers else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info(name, type_, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", type_, sizes.result)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OLDEST_OPSET)], ir_version=9)
    return made.SerializeToString()


def _product(sizes: LayerSizes, data: str, weight: str, bias: str) -> list[helper.NodeProto]:
    if not sizes.is_conv:
        added = helper.make_node("Add", ["product", bias], ["sum"])
        if len(sizes.weight) == 2 and sizes.constant:
            return [helper.make_node("Gemm", [data, weight, bias], ["sum"])]
        return [helper.make_node("MatMul", [data, weight], ["product"]), added]
    attributes: dict[str, Any] = {
        "strides": sizes.strides,
        "dilations": sizes.dilations,
        "pads": sizes.pads,
        "group": sizes.groups,
    }
    return [helper.make_node("Conv", [data, weight, bias], ["sum"], **attributes)]


def _block_input(model: Model, sizes: LayerSizes, lanes: int) -> None:
    """Let the data come in blocks of channels, as from the layer before."""
    (data,) = model.graph.inputs[:1]
    first = next(iter(model.graph.nodes))
    rewriter = Rewriter(model.graph, first)
    declare(rewriter, "FromBlocked")
    plain_type = data.type
    channels = sizes.data[1]
    assert isinstance(plain_type, TensorType)
    shape = (sizes.data[0], -(-channels // lanes), *sizes.data[2:], lanes)
    made = rewriter.op("FromBlocked", [data], {"channels": channels}, domain=DOMAIN, types=[plain_type])
    rewriter.replace_uses(data, made.output)
    rewriter.set_input(made, 0, data)
    rewriter.set_type(data, TensorType(plain_type.dtype, shape))


def maker(target: Target) -> Callable[[LayerSizes, str], Model]:
    """Return `layer_model` for a target."""
    return lambda sizes, precision: layer_model(sizes, precision, target)
