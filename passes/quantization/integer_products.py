"""Convolutions and matmuls of dequantized operands as products of integers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import DType, Graph, Node, TensorType, Value
from graphopt.passes.matching.match import NOTHING
from graphopt.passes.matching.windows import explicit_pads
from graphopt.passes.quantization._activations import (
    LARGEST_SUM,
    ActivationProduct,
    activation_product,
    activation_result,
)
from graphopt.passes.quantization._moving import OLDEST_OPSET
from graphopt.passes.quantization._operands import (
    Data,
    IntegerWeights,
    float_constant,
    integer_bias,
    integer_weights,
    quantized_data,
)
from graphopt.passes.quantization._pairs import DEQUANTIZE
from graphopt.passes.quantization._speed import why_floats
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter

_INT32 = np.iinfo(np.int32)
_INTEGER = ("ConvInteger", "MatMulInteger")


@dataclass(frozen=True)
class _Product:
    """A product as integers: `(sum of products + shift) * scale + bias`, with one number of each for each result.

    `added`: a bias that is computed, or has other axes than the results.
    """

    node: Node
    data: Data
    weights: IntegerWeights
    shift: np.ndarray
    scale: np.ndarray
    bias: np.ndarray | None = None
    added: Value | None = None
    pads: tuple[int, ...] = ()


@dataclass(frozen=True)
class _FloatWeights:
    """A convolution whose stored weights and bias become floats, which it computes on."""

    node: Node


@dataclass(frozen=True)
class IntegerProducts(RewritePass):
    """Multiply integers instead of the floats that they stand for, in convolutions and matmuls of quantized operands.

    The data is uint8, the weights are constant int8 numbers; their sums are int32 and become floats with one
    multiplication by the product of the scales. Zero points and biases are added to the sums as one constant. A padding
    that stands for zero is made explicit where the zero point is not 0. Results differ from those of floats by
    rounding. The weights of a convolution that cannot compute on integers become floats, and so do those of one that is
    slower on integers: a processor without dot products of bytes convolves some floats faster.

    Options:
        always: Compute on integers where floats are faster too.
    """

    always: bool = False

    name: ClassVar[str] = "integer-products"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Conv", "Gemm", "MatMul", "MatMulInteger")

    def run(self, graph: Graph, context: PassContext) -> None:
        super().run(graph, context)
        context.count("products on integers", sum(node.op in _INTEGER for node in graph.all_nodes()))
        if not any(node.op in (*_INTEGER, DEQUANTIZE) for node in graph.all_nodes()):
            return
        for node in graph.all_nodes():  # what the model's author, or a quantizer, left alone
            if node.op in ("Conv", "Gemm", "MatMul") and not _has_dequantized(node):
                context.miss(f"{node.op}: its data is not quantized", node)

    def match(self, node: Node, context: PassContext) -> _Product | ActivationProduct | _FloatWeights | Miss:
        if context.model.opset < OLDEST_OPSET:
            return NOTHING
        if node.op == "MatMulInteger":
            return _integer_matmul(node)
        if not _has_dequantized(node):
            return NOTHING
        slow = "" if self.always else why_floats(node, context.latencies)
        both = activation_product(node)
        found = Miss(slow) if slow else _product(node) if both is None else both
        if not isinstance(found, Miss):
            return found
        if node.op == "Conv" and node.inputs[1] is not None and _is_dequantized(node.inputs[1]):
            stored = [value for value in node.inputs[1:] if value is not None]
            if all(float_constant(value) is not None for value in stored):
                return _FloatWeights(node)
        return Miss(f"{node.op}: {found.reason}")

    def rewrite(self, match: _Product | ActivationProduct | _FloatWeights, rewriter: Rewriter) -> None:
        if isinstance(match, _FloatWeights):
            _make_floats(match.node, rewriter)
        elif isinstance(match, ActivationProduct):
            rewriter.replace(match.node, activation_result(match, rewriter))
        else:
            rewriter.replace(match.node, _result(match, rewriter))


def _has_dequantized(node: Node) -> bool:
    return any(value is not None and _is_dequantized(value) for value in node.inputs[:2])


def _is_dequantized(value: Value) -> bool:
    return value.producer is not None and value.producer.op == DEQUANTIZE


def _is_depthwise(node: Node) -> bool:
    """Return whether each channel of the result comes from a single channel of the data."""
    weight = node.inputs[1]
    return node.op == "Conv" and weight is not None and weight.shape is not None and weight.shape[1] == 1


def _product(node: Node) -> _Product | Miss:
    weight = node.inputs[1]
    data = quantized_data(node.inputs[0], depthwise=_is_depthwise(node))
    if isinstance(data, Miss):
        return data
    if weight is None or weight.rank is None or (node.op != "Conv" and weight.rank != 2):
        return Miss("its weights are not one matrix")
    if node.op == "MatMul" and (data.integers.rank is None or data.integers.rank < 2):
        return Miss("its data is a vector")
    rows = node.op == "Conv" or node.attr("transB", 0)
    weights = integer_weights(weight, 0 if rows else weight.rank - 1)
    if isinstance(weights, Miss):
        return weights
    if node.op == "Gemm" and rows:
        weights = IntegerWeights(np.ascontiguousarray(weights.array.T), weights.scale, None)
    pads = _pads(node, weights)
    if pads is None:
        return Miss("its padding depends on sizes that are not known")
    return _with_bias(node, data, weights, tuple(pads))


def _pads(node: Node, weights: IntegerWeights) -> list[int] | None:
    if node.op != "Conv":
        return []
    assert node.inputs[0] is not None
    kernel = weights.array.shape[2:]
    return explicit_pads(node, (node.inputs[0].shape or [None] * (len(kernel) + 2))[2:], kernel)


def _with_bias(node: Node, data: Data, weights: IntegerWeights, pads: tuple[int, ...]) -> _Product | Miss:
    """Return a product with its constants: zero point, scales and bias."""
    if isinstance(data.scale, Value) and node.op == "Conv":
        return Miss("its data has a scale that is computed")
    results = 0 if node.op == "Conv" else 1
    summed = tuple(axis for axis in range(weights.array.ndim) if axis != results)
    if weights.array.size // max(weights.array.shape[results], 1) > LARGEST_SUM:
        return Miss("it sums more products than int32 can hold")
    shift = np.zeros(weights.array.shape[results], np.int64)
    if isinstance(data.zero, int):
        shift -= data.zero * weights.array.sum(summed, dtype=np.int64)
    scale = weights.scale.astype(np.float64) * float(node.attr("alpha", 1.0))
    if not isinstance(data.scale, Value):
        repeats = weights.array.shape[0] // data.scale.size if data.scale.ndim else 1
        scale = scale * np.repeat(data.scale.astype(np.float64), repeats).reshape(-1 if data.scale.ndim else ())
    bias = node.input(2)
    product = _Product(node, data, weights, shift, scale, pads=pads)
    if bias is not None:
        found = _biased(product, bias, float(node.attr("beta", 1.0)))
        if isinstance(found, Miss):
            return found
        product = found
    if np.abs(product.shift).max(initial=0) > _INT32.max or not np.isfinite(scale.astype(np.float32)).all():
        return Miss("its bias does not fit into int32")
    return product


def _biased(product: _Product, bias: Value, factor: float) -> _Product | Miss:
    results = product.shift.size
    shape = bias.shape
    plain = shape is not None and all(size == 1 for size in shape[:-1]) and shape[-1:] in ((), (1,), (results,))
    whole = None
    if plain and factor == 1 and not isinstance(product.data.scale, Value):
        whole = integer_bias(bias, product.scale)
    if whole is not None:
        return replace(product, shift=product.shift + whole.astype(np.int64))
    numbers = float_constant(bias) if plain else None
    if numbers is not None:
        return replace(product, bias=np.broadcast_to(numbers.reshape(-1) * factor, results))
    if product.node.op == "Gemm" and factor == 1:
        return replace(product, added=bias)
    return Miss("its bias is computed")


def _integer_matmul(node: Node) -> _Product | Miss:
    """Match a MatMulInteger with zero points, which become part of the constants."""
    data, weight, zero, point = node.inputs[0], node.inputs[1], node.input(2), node.input(3)
    if data is None or weight is None or weight.constant is None or (zero is None and point is None):
        return NOTHING
    if data.dtype is not DType.UINT8 or data.rank is None or data.rank < 2:
        return Miss("MatMulInteger: its data is not uint8, or a vector")
    if len(weight.constant.shape) != 2 or (point is not None and point.constant is None):
        return Miss("MatMulInteger: its weights are not a constant matrix")
    if zero is not None and zero.shape not in ((), (1,)):
        return Miss("MatMulInteger: its rows have zero points of their own")
    points = np.zeros((), np.int64) if point is None or point.constant is None else point.constant.numpy()
    array = weight.constant.numpy().astype(np.int64) - points.astype(np.int64)
    if array.min(initial=0) < -128 or array.max(initial=0) > 127 or array.shape[0] > LARGEST_SUM:
        return Miss("MatMulInteger: its weights do not fit into int8 without their zero point")
    kept = weight if weight.dtype is DType.INT8 and not points.any() else None
    weights = IntegerWeights(array.astype(np.int8), np.ones(()), kept)
    shift = np.zeros(array.shape[1], np.int64)
    one = np.ones(())
    if zero is not None and zero.constant is None:
        return _Product(node, Data(data, one, zero), weights, shift, one)
    known = 0 if zero is None or zero.constant is None else int(zero.constant.numpy().reshape(()))
    return _Product(node, Data(data, one, known), weights, shift - known * array.sum(0), one)


def _result(product: _Product, rewriter: Rewriter) -> Value:
    node, data = product.node, product.data
    sums = _sums(product, rewriter)
    shape = (-1, *[1] * (product.weights.array.ndim - 2)) if node.op == "Conv" else (-1,)
    type_ = sums.type
    if isinstance(data.zero, Value):
        wide = rewriter.op("Cast", [data.zero], {"to": int(DType.INT32)}).output
        per_column = product.weights.array.sum(0, dtype=np.int32)
        moved = rewriter.op("Mul", [wide, rewriter.constant(per_column, f"{node.name}_sums")]).output
        sums = rewriter.op("Sub", [sums, moved], types=[type_]).output
    if product.shift.any():
        shift = rewriter.constant(product.shift.astype(np.int32).reshape(shape), f"{node.name}_shift")
        sums = rewriter.op("Add", [sums, shift], types=[type_]).output
    if node.op == "MatMulInteger":
        return sums
    floats = TensorType(DType.FLOAT, node.output.shape)
    result = rewriter.op("Cast", [sums], {"to": int(DType.FLOAT)}, types=[floats]).output
    result = rewriter.op("Mul", [result, _scale(product, shape, rewriter)], types=[floats]).output
    if product.bias is not None:
        bias = rewriter.constant(product.bias.astype(np.float32).reshape(shape), f"{node.name}_bias")
        return rewriter.op("Add", [result, bias], types=[floats]).output
    return result if product.added is None else rewriter.op("Add", [result, product.added], types=[floats]).output


def _scale(product: _Product, shape: tuple[int, ...], rewriter: Rewriter) -> Value:
    numbers = product.scale.astype(np.float32)
    constant = rewriter.constant(numbers.reshape(shape) if numbers.ndim else numbers, f"{product.node.name}_scale")
    if not isinstance(product.data.scale, Value):
        return constant
    return rewriter.op("Mul", [product.data.scale, constant]).output


def _sums(product: _Product, rewriter: Rewriter) -> Value:
    """Return the int32 sums of products of integers."""
    node, data = product.node, product.data.integers
    weight = product.weights.value
    if weight is None:
        assert node.inputs[1] is not None
        weight = rewriter.constant(product.weights.array, f"{node.name}_weights")
    types = [TensorType(DType.INT32, node.output.shape)]
    if node.op == "Gemm" and node.attr("transA", 0):
        data = rewriter.op("Transpose", [data], {"perm": [1, 0]}).output
    if node.op != "Conv":
        return rewriter.op("MatMulInteger", [data, weight], types=types).output
    pads = list(product.pads)
    if product.data.zero and any(pads):
        data, pads = _padded(product, rewriter), [0] * len(pads)
    attributes: dict[str, Any] = {"kernel_shape": list(product.weights.array.shape[2:]), "pads": pads}
    kept = {name: node.attributes[name] for name in ("dilations", "group", "strides") if name in node.attributes}
    return rewriter.op("ConvInteger", [data, weight], {**attributes, **kept}, types=types).output


def _padded(product: _Product, rewriter: Rewriter) -> Value:
    """Return the data with explicit padding that stands for zero."""
    half = len(product.pads) // 2
    widths = np.array([0, 0, *product.pads[:half], 0, 0, *product.pads[half:]], np.int64)
    operands = [rewriter.constant(widths, f"{product.node.name}_pads")]
    operands.append(rewriter.constant(np.array(product.data.zero, np.uint8), f"{product.node.name}_zero"))
    return rewriter.op("Pad", [product.data.integers, *operands]).output


def _make_floats(node: Node, rewriter: Rewriter) -> None:
    for index in range(1, len(node.inputs)):
        value = node.inputs[index]
        if value is not None and _is_dequantized(value):
            numbers, source = float_constant(value), value.producer
            assert numbers is not None
            assert source is not None
            rewriter.set_input(node, index, rewriter.constant(numbers.astype(np.float32), value.name))
            rewriter.remove_dead(source)
