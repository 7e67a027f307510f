"""Static quantization: products on integers, with scales of activations that were found on samples beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from graphopt.compression.calibration import Calibration
from graphopt.compression.scales import IntegerScheme, Scale
from graphopt.compression.statistics import ActivationStatistics
from graphopt.errors import PassError
from graphopt.ir import Graph, Node, Value, infer_shapes
from graphopt.passes.quantization._weights import channel_axis, fit_weights
from graphopt.passes.quantization.ignoring import check_patterns
from graphopt.passes.quantization.placement import Placement, place
from graphopt.rewriting.passes import Fidelity, Pass, PassContext

_QUANTIZED = frozenset(
    {
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
        "com.microsoft::DynamicQuantizeMatMul",
        "com.microsoft::MatMulNBits",
        "com.microsoft::QGemm",
    }
)
_PER_CHANNEL = 13
_LARGEST_BIAS = 2.0**30
"""Half of int32, so that there is room for the sums of products."""


@dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Round activations and weights of products to 8-bit integers, as pairs of QuantizeLinear and DequantizeLinear.

    Needs samples, on which the ranges of activations are found. Results are rounded after the whole epilogue of a
    product; additions, pools and moves between products get integers too. Biases are int32.

    Options:
        activations: the type of activations: `uint8` or `int8`.
        symmetric: whether their zero points are in the middle of the type.
        calibration: `min-max`, `moving-average`, `percentile`, `entropy` or `mse`.
        percentile: for the calibration of that name.
        per_channel: whether each channel of weights has a scale of its own.
        weights: the calibration of weights: `min-max` or `mse`.
        reduce_range: whether weights have 7 bits, which x86 processors without VNNI multiply faster: where sums of two
            products fit 16 bits. (Other runtimes let those of 8 bits saturate there.)
        power_of_two: whether scales are powers of two.
        biases: whether biases become int32; TensorRT takes floats only.
        ignore: patterns for names and operators of nodes that stay as they are, `re:EXPRESSION`, and `from..to`.
    """

    name: ClassVar[str] = "quantize-static"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY

    activations: str = "uint8"
    symmetric: bool = False
    calibration: str = "mse"
    percentile: float = 99.99
    per_channel: bool = True
    weights: str = "mse"
    reduce_range: bool = False
    power_of_two: bool = False
    biases: bool = True
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Calibration(self.calibration, self.percentile)
        if self.activations not in ("uint8", "int8"):
            raise ValueError("activations must be uint8 or int8")
        if self.weights not in ("min-max", "mse"):
            raise ValueError("weights must be min-max or mse")
        check_patterns(self.ignore)

    def run(self, graph: Graph, context: PassContext) -> None:
        if context.model.opset < _PER_CHANNEL:
            what = f"opset {context.model.opset} has no scales for channels"
            raise PassError(
                what, where=context.model.name, remedy="run raise-opset before, as the pipeline quantize does"
            )
        found = next((node for node in graph.nodes if node.op in _QUANTIZED), None)
        if found is not None:
            raise PassError(f"the model is quantized already, at {found.label}", where=self.name)
        infer_shapes(context.model)
        placement = place(graph, context, self.ignore)
        if not placement.products:
            reasons = "; ".join(context.misses) or "it has no convolution or matmul"
            raise PassError(f"there is nothing to quantize ({reasons})", where=context.model.name)
        placement.products = [node for node in placement.products if context.allow(node)]
        calibration = Calibration(self.calibration, self.percentile)
        names = [value.name for value in placement.values]
        statistics = context.statistics(names, calibration.kinds)
        scheme = IntegerScheme(self.activations, self.symmetric, self.power_of_two)
        scales = _activation_scales(placement, statistics, calibration, scheme)
        _Insertion(self, context, scales).insert(placement)


def _activation_scales(
    placement: Placement, statistics: ActivationStatistics, calibration: Calibration, scheme: IntegerScheme
) -> dict[Value, Scale]:
    """Return the scale of each value; values that must agree get one for the widest of their ranges."""
    bounds = {value: calibration.bounds(statistics.values[value.name], scheme) for value in placement.values}
    for group in placement.equal:
        members = [value for value in bounds if value in group]
        widest = min(bounds[v][0] for v in members), max(bounds[v][1] for v in members)
        bounds.update(dict.fromkeys(members, widest))
    return {value: scheme.fit(low, high) for value, (low, high) in bounds.items()}


@dataclass
class _Insertion:
    """The insertion of the pairs of QuantizeLinear and DequantizeLinear into one graph."""

    options: QuantizeStatic
    context: PassContext
    scales: dict[Value, Scale]
    stored: dict[tuple[Value, int | None], tuple[Value, Scale]] = field(default_factory=dict)
    """By weights and axis: their floats, made of integers, and their scale."""
    parameters: dict[tuple[str, tuple[int, ...], bytes], Value] = field(default_factory=dict)
    """Scales and zero points by type, shape and contents: each is stored once."""

    def insert(self, placement: Placement) -> None:
        inputs = {node: node.inputs[0] for node in placement.products}
        places = {node: place for place, node in enumerate(placement.graph.nodes)}
        for value, scale in self.scales.items():
            self._round(value, scale, places)
        for node in placement.products:
            data = inputs[node]
            assert data is not None
            self._quantize_weights(node, self.scales[data])
        self.context.count("products quantized", len(placement.products))
        self.context.count("activations quantized", len(self.scales))

    def _round(self, value: Value, scale: Scale, places: dict[Node, int]) -> None:
        """Put the pair after a value, for all nodes that read its numbers; nested graphs read the value itself."""
        uses = [use for use in value.uses if use.node in places and use.node.op not in ("Shape", "Size")]
        first = min((use.node for use in uses), key=places.__getitem__)
        inputs = self._parameters(first, value.name, scale)
        integers = self._insert(first, "QuantizeLinear", [value, *inputs], f"{value.name}/q")
        floats = self._insert(first, "DequantizeLinear", [integers, *inputs], f"{value.name}/dq")
        for use in uses:
            self.context.rewriter(use.node.graph, use.node).set_input(use.node, use.index, floats)

    def _insert(self, before: Node, op: str, inputs: list[Value], name: str, axis: int | None = None) -> Value:
        """Create a node without an origin of its own: it belongs to its neighbours. Names are short: there are many."""
        return self.context.rewriter(before.graph).op(op, inputs, {"axis": axis}, name=name, before=before).output

    def _parameters(self, node: Node, name: str, scale: Scale) -> list[Value]:
        return [
            self._stored_once(node, scale.scale, f"{name}/s"),
            self._stored_once(node, scale.zero_point, f"zp/{len(self.parameters)}"),
        ]

    def _stored_once(self, node: Node, array: np.ndarray, name: str) -> Value:
        key = array.dtype.name, array.shape, array.tobytes()
        if key not in self.parameters:
            self.parameters[key] = self.context.rewriter(node.graph, node).constant(array, name)
        return self.parameters[key]

    def _quantize_weights(self, node: Node, data: Scale) -> None:
        weights = node.inputs[1]
        assert weights is not None
        assert weights.constant is not None
        axis = channel_axis(node, len(weights.constant.shape)) if self.options.per_channel else None
        if (weights, axis) not in self.stored:
            self.stored[weights, axis] = self._stored(node, weights, axis, data)
        floats, scale = self.stored[weights, axis]
        self.context.rewriter(node.graph, node).set_input(node, 1, floats)
        bias = node.input(2)
        if self.options.biases and bias is not None and bias.constant is not None and len(bias.constant.shape) == 1:
            self._quantize_bias(node, bias, (data.scale.astype(np.float64) * scale.scale).astype(np.float32))

    def _stored(self, node: Node, weights: Value, axis: int | None, data: Scale) -> tuple[Value, Scale]:
        assert weights.constant is not None
        array = weights.constant.numpy()
        bits = 7 if self.options.reduce_range else None
        scheme = IntegerScheme("int8", symmetric=True, power_of_two=self.options.power_of_two, bits=bits)
        scale = fit_weights(array, axis, scheme, self.options.weights == "mse")
        scale = replace(scale, scale=np.maximum(scale.scale, self._smallest_scale(node, axis, data)))
        rewriter = self.context.rewriter(node.graph, node)
        integers = rewriter.constant(scale.quantize(array, axis), f"{weights.name}/q")
        inputs = [integers, *self._parameters(node, weights.name, scale)]
        return self._insert(node, "DequantizeLinear", inputs, f"{weights.name}/dq", axis), scale

    def _smallest_scale(self, node: Node, axis: int | None, data: Scale) -> np.ndarray:
        """Return the scales of weights below which the bias would not fit int32: those of channels that are dead."""
        bias = node.input(2)
        if bias is None or bias.constant is None or len(bias.constant.shape) != 1 or self.options.power_of_two:
            return np.zeros((), np.float32)
        sizes = np.abs(bias.constant.numpy().astype(np.float64))
        if axis is None or sizes.size == 1:
            sizes = sizes.max()
        return (sizes / (data.scale.astype(np.float64) * _LARGEST_BIAS)).astype(np.float32)

    def _quantize_bias(self, node: Node, bias: Value, scale: np.ndarray) -> None:
        """Make the bias int32 with the scale of the products, so that it can be added to their sum."""
        assert bias.constant is not None
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            exact = np.rint(bias.constant.numpy().astype(np.float64) / scale)
        if not np.all(np.abs(exact) <= np.iinfo(np.int32).max):
            self.context.miss(f"{node.op}: its bias is too large for its scale and stays a float", node)
            return
        rewriter = self.context.rewriter(node.graph, node)
        integers = rewriter.constant(exact.astype(np.int32), f"{bias.name}/q")
        inputs = [integers, self._stored_once(node, scale, f"{bias.name}/s")]
        floats = self._insert(node, "DequantizeLinear", inputs, f"{bias.name}/dq", 0 if scale.ndim else None)
        rewriter.set_input(node, 2, floats)
