"""Expansion of operators on quantized tensors into float ones between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import DType, Node, Tensor, Value
from graphopt.passes.matching.match import below_opset
from graphopt.passes.quantization._attention import attention_of_floats, why_not_expanded
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter

_MICROSOFT = "com.microsoft"
_SIMPLE = {
    "QLinearAdd": ("Add", 2, ()),
    "QLinearMul": ("Mul", 2, ()),
    "QLinearLeakyRelu": ("LeakyRelu", 1, ("alpha",)),
    "QLinearSigmoid": ("Sigmoid", 1, ()),
    "QLinearSoftmax": ("Softmax", 1, ("axis",)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", 1, ()),
    "QLinearAveragePool": (
        "AveragePool",
        1,
        ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides"),
    ),
}
"""Operators with a tensor, scale and zero point for each operand and for the result: the float one, the number of
operands, and the attributes that both have."""
_OLDEST = 13
_CONV_ATTRIBUTES = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_COMPUTED = Miss("a scale or a zero point is computed")


@dataclass(frozen=True)
class _Match:
    node: Node
    make: Callable[[Node, Rewriter], Value]


@dataclass(frozen=True)
class ExpandQuantized(RewritePass):
    """Turn operators on quantized tensors into float ones between DequantizeLinear and QuantizeLinear.

    QLinearConv and QLinearMatMul, and com.microsoft's QGemm, QLinear*, QAttention, DynamicQuantizeMatMul,
    MatMulIntegerToFloat, QuantizeLinear and DequantizeLinear; later passes then see one form. Where two roundings are
    done in another order, a result may differ by one step.
    """

    name: ClassVar[str] = "expand-quantized"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = (
        "QLinearConv",
        "QLinearMatMul",
        *(f"{_MICROSOFT}::{name}" for name in (*_SIMPLE, "QLinearConcat", "QLinearWhere")),
        *(f"{_MICROSOFT}::{name}" for name in ("QAttention", "QGemm", "QLinearConv", "DynamicQuantizeMatMul")),
        *(f"{_MICROSOFT}::{name}" for name in ("MatMulIntegerToFloat", "QuantizeLinear", "DequantizeLinear")),
    )

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        if miss := below_opset(context, _OLDEST):
            return miss
        if node.attr("channels_last", 0):
            return Miss("its channels are last")
        if any(not _is_known(value) for value in _scales(node)):
            return _COMPUTED
        reason = _declined(node, context)
        return _Match(node, _MAKERS.get(node.op_type, _simple)) if reason is None else Miss(reason)

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        rewriter.replace(match.node, match.make(match.node, rewriter))


def _scales(node: Node) -> Sequence[Value | None]:
    """Return the scales and zero points of a node, except those of a dynamic matmul, which may be computed."""
    inputs = node.inputs
    match node.op_type:
        case "QLinearConv" | "QLinearMatMul":
            places: Sequence[int] = (1, 2, 4, 5, 6, 7)
        case "QGemm":
            places = [place for place in (1, 2, 4, 5, 7, 8) if place < len(inputs)]
        case "QLinearConcat":
            places = [0, 1, *(place for place in range(2, len(inputs)) if place % 3 != 2)]
        case "QLinearWhere":
            places = (2, 3, 5, 6, 7, 8)
        case "QLinearAdd" | "QLinearMul":
            places = (1, 2, 4, 5, 6, 7)
        case "DynamicQuantizeMatMul":
            places = (2, 3)
        case "MatMulIntegerToFloat":
            places = (3, 5)
        case "QAttention":
            places = (4, 7)
        case _:
            places = range(1, len(inputs))
    return [inputs[place] for place in places if place < len(inputs)]


def _is_known(value: Value | None) -> bool:
    """Return whether a scale or zero point is a constant scalar or vector, or omitted."""
    return value is None or (value.constant is not None and len(value.constant.shape) <= 1)


def _declined(node: Node, context: PassContext) -> str | None:
    """Return why an operator with constant scales has no float counterpart; None if it has one."""
    opset = context.model.opset
    match node.op_type:
        case "QAttention":
            return why_not_expanded(node)
        case "QLinearConv" | "QGemm":
            bias = node.input(8 if node.op_type == "QLinearConv" else 6)
            return "its bias is computed" if bias is not None and bias.constant is None else None
        case "QLinearMatMul":
            return (
                "the rows have scales of their own"
                if _size(node.input(1)) > 1 or _size(node.input(6)) > 1
                else (
                    None if node.inputs[3] is not None and node.inputs[3].rank is not None else "its rank is not known"
                )
            )
        case "QLinearSoftmax":
            rank = None if node.inputs[0] is None else node.inputs[0].rank
            last = rank is not None and node.attr("axis", -1) in (-1, rank - 1)
            return None if last or node.attr("opset", 13) >= 13 else "it normalizes over several axes"
        case "DynamicQuantizeMatMul" | "MatMulIntegerToFloat":
            weight = node.inputs[1]
            return None if weight is not None and weight.rank is not None else "its rank is not known"
        case "QuantizeLinear" | "DequantizeLinear":
            stored = node.output if node.op_type == "QuantizeLinear" else node.inputs[0]
            small = stored is not None and stored.dtype in (DType.INT8, DType.UINT8, DType.INT32)
            return None if small or opset >= 21 else f"opset {opset} has no such type"
    return None


def _size(value: Value | None) -> int:
    return 1 if value is None or value.constant is None else value.constant.size


def _parameter(rewriter: Rewriter, value: Value) -> Value:
    """Return a scale or zero point, a scalar if it is one number: vectors mean an axis."""
    constant = value.constant
    if constant is None or constant.size != 1 or not constant.shape:
        return value
    return rewriter.constant(constant.numpy().reshape(()), value.name)


def _dequantize(rewriter: Rewriter, inputs: Sequence[Value | None], axis: int | None = None) -> Value:
    """Return the floats of (integers, scale, zero point); scales of channels are along `axis`."""
    integers, scale, zero = (*inputs, None)[:3]
    assert scale is not None
    known = _parameter(rewriter, scale)
    operands = [integers, known, *([] if zero is None else [_zero_like(rewriter, zero, known)])]
    attributes = {"axis": axis} if axis is not None and _size(scale) > 1 else {}
    return rewriter.op("DequantizeLinear", operands, attributes).output


def _zero_like(rewriter: Rewriter, zero: Value, scale: Value) -> Value:
    """Return a zero point with the shape of its scale, as DequantizeLinear requires."""
    known = zero.constant
    if known is None or scale.constant is None or known.shape == scale.constant.shape or not scale.constant.shape:
        return _parameter(rewriter, zero)
    return rewriter.constant(np.full(scale.constant.shape, known.numpy().reshape(-1)), zero.name)


def _quantize(
    rewriter: Rewriter, value: Value | None, node: Node, scale: Value | None, zero: Value | None, axis: int = 0
) -> Value:
    """Return the quantized result of `node`; an omitted zero point is 0 of the type of that result."""
    assert scale is not None
    if zero is None:
        assert node.output.dtype is not None
        zero = rewriter.constant(np.zeros((), node.output.dtype.numpy), f"{node.name}_zero_point")
    operands = [value, _parameter(rewriter, scale), _parameter(rewriter, zero)]
    attributes = {"axis": axis} if _size(scale) > 1 else {}
    return rewriter.op("QuantizeLinear", operands, attributes, types=[node.output.type]).output


def _attributes(node: Node, names: Sequence[str]) -> dict[str, Any]:
    return {name: node.attributes[name] for name in names if name in node.attributes}


def _simple(node: Node, rewriter: Rewriter) -> Value:
    op_type, count, names = _SIMPLE[node.op_type]
    inputs = (*node.inputs, *[None] * (3 * count + 2 - len(node.inputs)))
    operands = [_dequantize(rewriter, inputs[3 * place : 3 * place + 3]) for place in range(count)]
    attributes = _attributes(node, names)
    result = rewriter.op(op_type, operands, attributes).output
    return _quantize(rewriter, result, node, inputs[3 * count], inputs[3 * count + 1])


def _conv(node: Node, rewriter: Rewriter) -> Value:
    operands = [_dequantize(rewriter, node.inputs[0:3]), _dequantize(rewriter, node.inputs[3:6], 0)]
    if node.input(8) is not None:
        operands.append(_bias(rewriter, node, node.inputs[8], 1, 4, 0))
    result = rewriter.op("Conv", operands, _attributes(node, _CONV_ATTRIBUTES)).output
    return _quantize(rewriter, result, node, node.inputs[6], node.inputs[7])


def _bias(
    rewriter: Rewriter, node: Node, bias: Value | None, data: int, weight: int, axis: int, factor: float = 1.0
) -> Value:
    """Return the floats of an int32 bias, whose scale is the product of those of the data and the weights."""
    assert bias is not None
    scale = np.float32(factor) * _contents(node.inputs[data]).numpy().reshape(())
    scales = (scale * _contents(node.inputs[weight]).numpy()).astype(np.float32)
    scales = scales.reshape(()) if scales.size == 1 else scales
    return _dequantize(rewriter, [bias, rewriter.constant(scales, f"{bias.name}_scale")], axis)


def _contents(value: Value | None) -> Tensor:
    assert value is not None
    assert value.constant is not None
    return value.constant


def _matmul(node: Node, rewriter: Rewriter) -> Value:
    weight = node.inputs[3]
    assert weight is not None
    assert weight.rank is not None
    operands = [_dequantize(rewriter, node.inputs[0:3]), _dequantize(rewriter, node.inputs[3:6], weight.rank - 1)]
    result = rewriter.op("MatMul", operands).output
    return _quantize(rewriter, result, node, node.inputs[6], node.inputs[7])


def _gemm(node: Node, rewriter: Rewriter) -> Value:
    axis = 0 if node.attr("transB", 0) else 1
    operands = [_dequantize(rewriter, node.inputs[0:3]), _dequantize(rewriter, node.inputs[3:6], axis)]
    bias = node.input(6)
    if bias is not None:
        last = max(len(_contents(bias).shape) - 1, 0)
        operands.append(_bias(rewriter, node, bias, 1, 4, last, node.attr("alpha", 1.0)))
    result = rewriter.op("Gemm", operands, _attributes(node, ("alpha", "transA", "transB"))).output
    if node.input(7) is None:
        return result
    return _quantize(rewriter, result, node, node.inputs[7], node.input(8))


def _concat(node: Node, rewriter: Rewriter) -> Value:
    rest = node.inputs[2:]
    pieces = [_dequantize(rewriter, rest[place : place + 3]) for place in range(0, len(rest), 3)]
    result = rewriter.op("Concat", pieces, _attributes(node, ("axis",))).output
    return _quantize(rewriter, result, node, node.inputs[0], node.inputs[1])


def _where(node: Node, rewriter: Rewriter) -> Value:
    operands = [node.inputs[0], _dequantize(rewriter, node.inputs[1:4]), _dequantize(rewriter, node.inputs[4:7])]
    result = rewriter.op("Where", operands).output
    return _quantize(rewriter, result, node, node.inputs[7], node.input(8))


def _dynamic_matmul(node: Node, rewriter: Rewriter) -> Value:
    """A float times quantized weights: the float is quantized by its own range."""
    data, weight, scale, zero, bias = (*node.inputs, None, None)[:5]
    made = rewriter.op("DynamicQuantizeLinear", [data], n_outputs=3).outputs
    return _product(rewriter, made, [weight, scale, zero], bias)


def _attention(node: Node, rewriter: Rewriter) -> Value:
    """Only the product that makes queries, keys and values is quantized; the attention itself is one of floats."""
    data, weight, bias, scale, weight_scale, mask, zero, weight_zero = (*node.inputs, None, None, None)[:8]
    joined = _product(rewriter, [data, scale, zero], [weight, weight_scale, weight_zero], bias)
    return attention_of_floats(node, joined, mask, rewriter)


def _integer_matmul(node: Node, rewriter: Rewriter) -> Value:
    data, weight, data_scale, scale, data_zero, zero, bias = (*node.inputs, None, None, None)[:7]
    return _product(rewriter, [data, data_scale, data_zero], [weight, scale, zero], bias)


def _product(
    rewriter: Rewriter, data: Sequence[Value | None], weights: Sequence[Value | None], bias: Value | None
) -> Value:
    assert weights[0] is not None
    assert weights[0].rank is not None
    floats = [_dequantize(rewriter, data), _dequantize(rewriter, weights, weights[0].rank - 1)]
    result = rewriter.op("MatMul", floats).output
    return result if bias is None else rewriter.op("Add", [result, bias]).output


def _standard(node: Node, rewriter: Rewriter) -> Value:
    """ONNX Runtime's own QuantizeLinear and DequantizeLinear are ONNX's, but with an axis of no effect on scalars."""
    if node.op_type == "DequantizeLinear":
        return _dequantize(rewriter, node.inputs, node.attr("axis", 1))
    return _quantize(rewriter, node.inputs[0], node, node.inputs[1], node.input(2), node.attr("axis", 1))


_MAKERS: dict[str, Callable[[Node, Rewriter], Value]] = {
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "QGemm": _gemm,
    "QAttention": _attention,
    "QLinearConcat": _concat,
    "QLinearWhere": _where,
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "MatMulIntegerToFloat": _integer_matmul,
    "QuantizeLinear": _standard,
    "DequantizeLinear": _standard,
}
