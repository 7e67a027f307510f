"""Dynamic quantization: activations become integers while the model runs, with the range of the moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from graphopt.compression.scales import IntegerScheme
from graphopt.errors import PassError
from graphopt.ir import DType, Graph, Node, Value, infer_shapes
from graphopt.passes.quantization._weights import channel_axis, fit_weights
from graphopt.passes.quantization.ignoring import check_patterns, ignored_nodes
from graphopt.rewriting.passes import Fidelity, Pass, PassContext, Rewriter

_SINCE = 11
"""The opset that has DynamicQuantizeLinear."""


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Multiply 8-bit integers in matmuls; the range of the data is found anew in each run, and no samples are needed.

    Data go through DynamicQuantizeLinear, weights are int8, MatMulInteger multiplies them, and a Mul by both scales
    makes floats of the sums: what ONNX Runtime's dynamic quantization writes.

    Options:
        per_channel: whether each channel of weights has a scale of its own.
        weights: the range of weights: `mse` or `min-max`.
        convolutions: whether they are quantized too (ConvInteger), for which few runtimes have fast kernels.
        reduce_range: whether weights have 7 bits, for processors whose sums of 8-bit products saturate.
        ignore: patterns for names and operators of nodes that stay as they are, `re:EXPRESSION`, and `from..to`.
    """

    name: ClassVar[str] = "quantize-dynamic"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY

    per_channel: bool = True
    weights: str = "mse"
    convolutions: bool = False
    reduce_range: bool = False
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.weights not in ("min-max", "mse"):
            raise ValueError("weights must be min-max or mse")
        check_patterns(self.ignore)

    def run(self, graph: Graph, context: PassContext) -> None:
        if context.model.opset < _SINCE:
            what = f"opset {context.model.opset} has no DynamicQuantizeLinear"
            remedy = "run raise-opset before, as the pipeline quantize-int8-dynamic does"
            raise PassError(what, where=context.model.name, remedy=remedy)
        infer_shapes(context.model)
        ignored = ignored_nodes(graph, self.ignore, context)
        made = _Made()
        for node in list(graph.all_nodes()):
            if node.op not in ("MatMul", "Gemm", *(["Conv"] if self.convolutions else [])):
                continue
            reason = "it is to be left alone" if node in ignored else _refused(node)
            if reason is not None:
                context.miss(f"{node.op}: {reason}", node)
            elif context.allow(node):
                self._quantize(context.rewriter(node.graph, node), node, made)
                context.count("products quantized")
        if not context.counts["products quantized"]:
            reasons = "; ".join(context.misses) or "it has no matmul"
            raise PassError(f"there is nothing to quantize ({reasons})", where=context.model.name)

    def _quantize(self, rewriter: Rewriter, node: Node, made: _Made) -> None:
        data, bias = node.inputs[0], node.input(2)
        assert data is not None
        integers, data_scale, point = made.data(rewriter, data)
        weights, weight_scale = self._weights(rewriter, node, made)
        if node.op == "Conv":
            product = rewriter.op("ConvInteger", [integers, weights, point], node.attributes).output
        else:
            product = rewriter.op("MatMulInteger", [integers, weights, point]).output
        scale = rewriter.op("Mul", [data_scale, weight_scale]).output
        floats = rewriter.op("Cast", [product], {"to": int(DType.FLOAT)}).output
        result = rewriter.op("Mul", [floats, scale], types=[node.output.type])
        if bias is not None:
            if node.op == "Conv":
                assert bias.constant is not None
                shape = (-1, *[1] * ((node.output.rank or 0) - 2))
                bias = rewriter.constant(bias.constant.numpy().reshape(shape), bias.name)
            result = rewriter.op("Add", [result.output, bias], types=[node.output.type])
        rewriter.replace(node, result.output)

    def _weights(self, rewriter: Rewriter, node: Node, made: _Made) -> tuple[Value, Value]:
        """Return the integers of a product's weights, as its integer form takes them, and their scale."""
        value = node.inputs[1]
        assert value is not None
        assert value.constant is not None
        transposed = node.op == "Gemm" and bool(node.attr("transB", 0))
        key = value, transposed, node.op == "Conv"
        if key not in made.weights or made.weights[key][0].graph is not node.graph:
            array = value.constant.numpy()
            axis = channel_axis(node, array.ndim) if self.per_channel else None
            scheme = IntegerScheme("int8", symmetric=True, bits=7 if self.reduce_range else 8)
            scale = fit_weights(array, axis, scheme, self.weights == "mse")
            integers = scale.quantize(array, axis)
            scales = (
                scale.scale.reshape(-1, *[1] * (array.ndim - 2)) if node.op == "Conv" and axis is not None else None
            )
            made.weights[key] = (
                rewriter.constant(np.ascontiguousarray(integers.T) if transposed else integers, value.name),
                rewriter.constant(scale.scale if scales is None else scales, f"{value.name}/scale"),
            )
        return made.weights[key]


@dataclass
class _Made:
    """What several products share: the integers of one value, and of one constant."""

    values: dict[Value, tuple[Value, Value, Value]] = field(default_factory=dict)
    weights: dict[tuple[Value, bool, bool], tuple[Value, Value]] = field(default_factory=dict)

    def data(self, rewriter: Rewriter, value: Value) -> tuple[Value, Value, Value]:
        """Return the integers of a value, their scale and their zero point."""
        if value not in self.values or self.values[value][0].graph is not rewriter.graph:
            node = rewriter.op("DynamicQuantizeLinear", [value], n_outputs=3, name=f"{value.name}/quantize")
            self.values[value] = node.outputs[0], node.outputs[1], node.outputs[2]
        return self.values[value]


def _refused(node: Node) -> str | None:
    data, weights, bias = node.inputs[0], node.inputs[1], node.input(2)
    if weights is None or weights.constant is None:
        return "its weights are not constant"
    if weights.dtype is not DType.FLOAT or data is None or data.dtype is not DType.FLOAT:
        return "it does not compute in float32"
    if len(weights.shape or ()) < 2 or (node.op != "Conv" and len(weights.shape or ()) != 2):
        return "its weights are no matrix"
    if node.op == "Gemm" and (node.attr("transA", 0) or node.attr("alpha", 1.0) != 1 or node.attr("beta", 1.0) != 1):
        return "it is scaled or transposed"
    if node.op == "Conv" and bias is not None and bias.constant is None:
        return "its bias is not constant"
    return "its rank is not known" if node.op == "Conv" and node.output.rank is None else None
