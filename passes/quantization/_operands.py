"""The operands of quantized products, as integer kernels multiply them: uint8 data and int8 weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir import DType, Node, Value
from graphopt.passes.quantization._moving import EIGHT_BITS
from graphopt.passes.quantization._pairs import DEQUANTIZE, dequantized
from graphopt.rewriting.passes import Miss

_INT8 = np.iinfo(np.int8)
_SAME_SCALE = 1e-5
"""The relative difference up to which the scale of a bias is taken for that of the products, rounded."""


@dataclass(frozen=True)
class Data:
    """uint8 data that stands for `(integers - zero) * scale`.

    The scale and the zero point are numbers, or scalar values that are computed from the data. For a convolution that
    computes each channel from one, there may be a scale for each channel.
    """

    integers: Value
    scale: np.ndarray | Value
    zero: int | Value


def quantized_data(value: Value | None, *, depthwise: bool = False) -> Data | Miss:
    """Return the integers behind the data of a product, or why they cannot be multiplied.

    With `depthwise`, channels may have scales of their own, but not zero points, with which the data is padded.
    """
    node = None if value is None else value.producer
    if node is None or node.op != DEQUANTIZE:
        return Miss("its data is not quantized")
    source = dequantized(value)
    if source is None:
        return _dynamic(node)
    if source.integers.constant is not None:
        return Miss("its data is constant")
    if source.integers.dtype is not DType.UINT8:
        return Miss("its data is of another type than uint8 or int8")
    mapping = source.mapping
    if not mapping.is_uniform and not (depthwise and mapping.axis == 1 and np.ptp(mapping.zero) == 0):
        return Miss("its data has a scale for each channel")
    return Data(source.integers, mapping.scale, int(mapping.zero.reshape(-1)[0]))


def _dynamic(node: Node) -> Data | Miss:
    """Match data whose scale is found while the model runs."""
    integers, scale, zero = node.inputs[0], node.input(1), node.input(2)
    if integers is None or scale is None or zero is None or integers.dtype is not DType.UINT8:
        return Miss("its data is quantized to another type, or in blocks")
    if scale.dtype is not DType.FLOAT or scale.shape != () or zero.shape != ():
        return Miss("its data has several scales, which are computed")
    return Data(integers, scale, zero)


@dataclass(frozen=True)
class IntegerWeights:
    """int8 weights that stand for `array * scale`; `scale` is one number, or a vector with one for each result.

    `value` is the constant that holds the array, if there is one already.
    """

    array: np.ndarray
    scale: np.ndarray
    value: Value | None


def integer_weights(value: Value | None, axis: int) -> IntegerWeights | Miss:
    """Return the integers behind the weights of a product, whose results are along `axis`; or why there are none."""
    source = dequantized(value)
    if source is None:
        constant = value is not None and value.constant is not None
        return Miss("its weights are floats" if constant else "its weights are not constant, or scaled in blocks")
    stored, mapping = source.integers.constant, source.mapping
    if stored is None or source.integers.dtype not in EIGHT_BITS:
        return Miss("its weights are not constant" if stored is None else "its weights do not have 8 bits")
    if mapping.axis not in (None, axis):
        return Miss("its weights have scales along what it sums over")
    array = stored.numpy()
    if not mapping.zero.any() and stored.dtype is DType.INT8:
        return IntegerWeights(array, mapping.scale, source.integers)
    centered = array.astype(np.int64) - mapping.along(mapping.zero, array.ndim)
    if centered.size and (centered.min() < _INT8.min or centered.max() > _INT8.max):
        return Miss("its weights do not fit into int8 without their zero point")
    return IntegerWeights(centered.astype(np.int8), mapping.scale, None)


def float_constant(value: Value | None) -> np.ndarray | None:
    """Return the float64 contents of a float constant, or of stored integers that are dequantized."""
    if value is not None and value.constant is not None:
        return value.constant.numpy().astype(np.float64) if value.constant.dtype.is_float else None
    source = dequantized(value)
    if source is None or source.integers.constant is None:
        return None
    array, mapping = source.integers.constant.numpy(), source.mapping
    if mapping.axis is not None and mapping.axis >= array.ndim:
        return None
    scale, zero = (mapping.along(p, array.ndim) for p in (mapping.scale, mapping.zero))
    return (array.astype(np.int64) - zero).astype(np.float64) * scale.astype(np.float64)


def integer_bias(value: Value | None, scale: np.ndarray) -> np.ndarray | None:
    """Return the int32 numbers of a bias that has the scale of the products, else None."""
    source = dequantized(value)
    if source is None or source.integers.constant is None or source.integers.dtype is not DType.INT32:
        return None
    if source.mapping.zero.any():
        return None
    own = source.mapping.scale.astype(np.float64).reshape(-1)
    if own.size not in (1, scale.size) and scale.size != 1:
        return None
    alike = np.allclose(own, scale.reshape(-1), rtol=_SAME_SCALE, atol=0.0)
    return source.integers.constant.numpy().reshape(-1) if alike else None
