"""Per-channel affine maps `y = scale * x + shift`, and how to fold them into the weights of a convolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir import Node, Value
from graphopt.passes.matching.match import NOTHING, numbers, rounded
from graphopt.rewriting.passes import Miss, Rewriter

CONVOLUTIONS = ("Conv", "ConvTranspose")
_EPSILON = float(np.float32(1e-5))
"""The default of the attribute, which is a float32."""

UNREPRESENTABLE = Miss("the folded weights do not fit their float type")


@dataclass(frozen=True)
class Affine:
    """The map `y = scale * x + shift`, with float64 vectors of one element per channel."""

    scale: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class Folded:
    """A convolution or matmul with new weights, which replaces everything between `data` and `root`."""

    layer: Node
    root: Node
    data: Value
    weight: np.ndarray
    bias: np.ndarray | None


def batch_norm(node: Node) -> Affine | Miss:
    """The map of a `BatchNormalization` in inference mode."""
    if node.attr("training_mode", 0) or sum(bool(out.name) for out in node.outputs) > 1:
        return Miss("the batch-norm is in training mode")
    parameters = [numbers(value) for value in node.inputs[1:5]]
    if len(parameters) != 4 or any(p is None for p in parameters):
        return Miss("a parameter of the batch-norm is not constant")
    gamma, beta, mean, variance = (p.reshape(-1) for p in parameters if p is not None)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(variance + float(node.attr("epsilon", _EPSILON)))
        shift = beta - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return Miss("the batch-norm's factors are not finite")
    return Affine(scale, shift)


def elementwise(node: Node, data: Value, channels: int, rank: int) -> Affine | Miss:
    """The map of a `Mul`, `Add`, `Sub` or `Div` of `data` (channels on axis 1) with a constant, or of a `Neg`."""
    ones, zeros = np.ones(channels), np.zeros(channels)
    if node.op == "Neg":
        return Affine(-ones, zeros)
    if data not in node.inputs[:2] or node.inputs[0] is node.inputs[1]:
        return NOTHING
    index = 1 if node.inputs[0] is data else 0
    array = numbers(node.inputs[index])
    if array is None:
        return NOTHING
    vector = _per_channel(array, channels, rank)
    if vector is None:
        return Miss("the constant is not one number a channel")
    match node.op, index:
        case "Add", _:
            return Affine(ones, vector)
        case "Sub", 1:
            return Affine(ones, -vector)
        case "Sub", _:
            return Affine(-ones, vector)
        case "Mul", _:
            return Affine(vector, zeros)
        case "Div", 1 if vector.all():
            return Affine(1.0 / vector, zeros)
        case _:
            return Miss("divided by zero, or a constant is divided by the data")


def _per_channel(array: np.ndarray, channels: int, rank: int) -> np.ndarray | None:
    """The constant as a vector of `channels` elements if it varies along axis 1 of `rank` axes only."""
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if shape[1] not in (1, channels) or any(dim != 1 for axis, dim in enumerate(shape) if axis != 1):
        return None
    return np.broadcast_to(array.reshape(-1), (channels,)).astype(np.float64)


def parameters(conv: Node) -> tuple[np.ndarray, np.ndarray | None] | Miss:
    """Return weight and bias (None if there is none) of a convolution in float64."""
    weight, bias = numbers(conv.input(1)), numbers(conv.input(2))
    if weight is None:
        return Miss("the weights of the convolution are not constant")
    if conv.input(2) is not None and bias is None:
        return Miss("the bias of the convolution is not constant")
    return weight, bias


def output_channels(conv: Node, weight_shape: tuple[int, ...]) -> int:
    """Return the number of output channels of a convolution with weights of this shape."""
    return weight_shape[0] if conv.op == "Conv" else weight_shape[1] * conv.attr("group", 1)


def input_channels(conv: Node, weight_shape: tuple[int, ...]) -> int:
    """Return the number of input channels of a convolution with weights of this shape."""
    return weight_shape[0] if conv.op == "ConvTranspose" else weight_shape[1] * conv.attr("group", 1)


def fold_after(conv: Node, affine: Affine, root: Node) -> Folded | Miss:
    """Fold `affine` after a convolution into its weights: scale each output channel, shift its bias."""
    found = parameters(conv)
    if isinstance(found, Miss):
        return found
    weight, bias = found
    channels, groups = output_channels(conv, weight.shape), conv.attr("group", 1)
    if affine.scale.size != channels:
        return Miss("the number of channels differs")
    spatial = (1,) * (weight.ndim - 2)
    if conv.op == "Conv":
        folded = weight * affine.scale.reshape(-1, 1, *spatial)
    else:
        grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        folded = (grouped * affine.scale.reshape(groups, 1, -1, *spatial)).reshape(weight.shape)
    shift = affine.shift if bias is None else affine.shift + bias * affine.scale
    return _finished(conv, root, folded, None if bias is None and not shift.any() else shift)


def fold_before(conv: Node, affine: Affine, data: Value) -> Folded | Miss:
    """Fold `affine` before a convolution into its weights: scale each input channel, shift the bias.

    A shift can be folded only if nothing is padded: padding is zero after the map, so the shift is missing at the
    border.
    """
    found = parameters(conv)
    if isinstance(found, Miss):
        return found
    weight, bias = found
    channels, groups = input_channels(conv, weight.shape), conv.attr("group", 1)
    if affine.scale.size != channels:
        return Miss("the number of channels differs")
    shifted = bool(affine.shift.any())
    if shifted and not _sees_no_border(conv):
        return Miss("a shift before a convolution that pads")
    spatial = (1,) * (weight.ndim - 2)
    if conv.op == "ConvTranspose":
        return _finished(conv, conv, weight * affine.scale.reshape(-1, 1, *spatial), bias, data)
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    folded = (grouped * affine.scale.reshape(groups, 1, -1, *spatial)).reshape(weight.shape)
    if shifted:
        moved = (grouped * affine.shift.reshape(groups, 1, -1, *spatial)).reshape(weight.shape[0], -1).sum(axis=1)
        bias = moved if bias is None else bias + moved
    return _finished(conv, conv, folded, bias, data)


def _sees_no_border(conv: Node) -> bool:
    """Return whether every output of the convolution depends only on real inputs."""
    if conv.op != "Conv" or conv.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    return not any(conv.attr("pads", ()))


def _finished(
    conv: Node, root: Node, weight: np.ndarray, bias: np.ndarray | None, data: Value | None = None
) -> Folded | Miss:
    value = conv.inputs[1]
    assert value is not None
    assert value.constant is not None
    dtype = value.constant.dtype
    new_weight = rounded(weight, dtype)
    new_bias = None if bias is None else rounded(bias, dtype)
    if new_weight is None or (bias is not None and new_bias is None):
        return UNREPRESENTABLE
    data = data or conv.inputs[0]
    assert data is not None
    return Folded(conv, root, data, new_weight, new_bias)


def replace_convolution(folded: Folded, rewriter: Rewriter) -> None:
    """Replace the nodes by a convolution with the folded weights; the old weights stay for other consumers."""
    conv, old = folded.layer, folded.layer.inputs[1]
    assert old is not None
    inputs = [folded.data, rewriter.constant(folded.weight, old.name)]
    if folded.bias is not None:
        inputs.append(rewriter.constant(folded.bias, f"{conv.name or conv.op_type}_bias"))
    origin = (conv, folded.root) if folded.root is not conv else (conv, *_producers(conv))
    new = rewriter.op(
        conv.op_type,
        inputs,
        dict(conv.attributes),
        types=[folded.root.output.type],
        origin=origin,
        name=conv.name,
        before=folded.root,
    )
    rewriter.replace(folded.root, [new.output])


def _producers(conv: Node) -> tuple[Node, ...]:
    source = conv.inputs[0]
    return (source.producer,) if source is not None and source.producer is not None else ()
