"""Expansion of transposed convolutions into ordinary ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Node, Value
from graphopt.passes.layout._channels import Constant, constant_of
from graphopt.passes.layout._phases import Axis, Piece, pieces_of, reaches
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter

BLOCK = 8
"""The approximate number of channels that kernels compute at once, which depends on the target."""
MOST_PIECES = 9
"""The largest number of convolutions that one may become before each is too small."""


@dataclass(frozen=True)
class _Match:
    node: Node
    weight: Constant
    bias: Constant | None
    axes: tuple[Axis, ...]
    pieces: tuple[Piece, ...]
    groups: int
    outputs: int

    @property
    def is_inner(self) -> bool:
        """Whether the phases of a channel are adjacent: those of a group must stay together."""
        return self.groups > 1 and len(self.pieces) == 1

    @property
    def is_cut(self) -> bool:
        return any(axis.crop or axis.rest for axis in self.axes)

    @property
    def is_square(self) -> bool:
        """Whether DepthToSpace can move the phases to their positions."""
        return len(self.axes) == 2 and self.axes[0].stride == self.axes[1].stride


@dataclass(frozen=True)
class ExpandConvTranspose(RewritePass):
    """Compute a ConvTranspose as convolutions, one for each phase of its outputs.

    With stride s there are s phases along an axis: every s-th output is a convolution with every s-th tap. Phases that
    read the same inputs are channels of one convolution, and DepthToSpace moves them to their positions. Convolutions
    have fast kernels, and moving costs little. If there are too few channels or too many phases for one convolution
    each, a single one computes all phases, provided that each phase has a tap for every input that one of them reads:
    a zero in place of a missing tap would make NaN of an infinity. Weights that are stored as integers remain so.
    """

    name: ClassVar[str] = "expand-conv-transpose"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("ConvTranspose",)

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        data, weight, bias = node.input(0), constant_of(node.input(1), 1), constant_of(node.input(2), 0)
        if weight is None or (bias is None and node.input(2) is not None):
            return Miss("the weight or the bias is computed, or not scaled by channel")
        shape = weight.array.shape
        if len(shape) < 3 or 0 in shape:
            return Miss("its kernel is empty")
        if not weight.is_finite:
            return Miss("a weight is no finite number: times the zeros of a convolution's padding, it is NaN")
        sizes = _sizes(data, len(shape) - 2)
        found = reaches(node, shape[2:], sizes)
        if isinstance(found, Miss):
            return found
        groups = node.attr("group", 1)
        axes = [axis.apart() for axis in found]
        pieces = _one_phase_each(pieces_of(axes)) if groups > 1 else pieces_of(axes)
        joined = [axis.together() for axis in found]
        is_whole = not any(axis.has_gaps for axis in joined)
        if any(axis.has_gaps for axis in axes) or (len(pieces) > MOST_PIECES and not is_whole):
            return Miss("its phases are many and read different inputs, or one reads none")
        if len(pieces) > MOST_PIECES or (
            is_whole
            and groups == 1
            and len(pieces) > 1
            and _products(joined, shape[1], 1) < _products(axes, shape[1], len(pieces))
        ):
            axes, pieces = joined, pieces_of(joined)
        match = _Match(node, weight, bias, tuple(axes), tuple(pieces), groups, shape[1] * groups)
        if not match.is_square and sum(not isinstance(size, int) for size in sizes) > 1:
            return Miss("more than one size of its input is not known")
        return match

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        made = [_convolution(match, piece, rewriter) for piece in match.pieces]
        whole = made[0] if len(made) == 1 else rewriter.op("Concat", made, {"axis": 1}).output
        if math.prod(axis.stride for axis in match.axes) > 1:
            whole = _in_place(match, whole, rewriter)
        rewriter.replace(match.node, _cut(match, whole, rewriter) if match.is_cut else whole)


def _sizes(data: Value | None, rank: int) -> Sequence[object]:
    return [None] * rank if data is None or data.shape is None else data.shape[2:]


def _one_phase_each(pieces: Sequence[Piece]) -> list[Piece]:
    return [Piece((phases,)) for piece in pieces for phases in piece.phases]


def _products(axes: Sequence[Axis], outputs: int, pieces: int) -> float:
    """Return the number of multiplications per input, counting the unused lanes of blocks."""
    channels = outputs * math.prod(axis.stride for axis in axes) // pieces
    return math.prod(axis.taps for axis in axes) * -(-channels // BLOCK) * BLOCK / channels


def _convolution(match: _Match, piece: Piece, rewriter: Rewriter) -> Value:
    """Return the convolution that computes the phases of a piece."""
    kernel, phases = piece.weight(match.weight.array, match.groups), len(piece.phases)
    if match.is_inner:
        kernel = kernel.swapaxes(1, 2)
    kernel = np.ascontiguousarray(kernel.reshape(phases * match.outputs, *kernel.shape[3:]))

    def channels(numbers: np.ndarray) -> np.ndarray:
        """Return the number of each of the convolution's channels: a phase of a channel has that of the channel."""
        return np.repeat(numbers, phases) if match.is_inner else np.tile(numbers, phases)

    weight = match.weight.moved(kernel, lambda numbers: channels(np.tile(numbers, match.groups)))
    operands = [match.node.inputs[0], weight.value(rewriter)]
    if match.bias is not None:
        operands.append(match.bias.moved(channels(match.bias.array), channels).value(rewriter))
    attributes = {"kernel_shape": list(kernel.shape[2:]), "group": match.groups, "pads": piece.pads}
    attributes["dilations"] = [axis.dilation for axis in match.axes]
    return rewriter.op("Conv", operands, attributes).output


def _in_place(match: _Match, whole: Value, rewriter: Rewriter) -> Value:
    """Move phases, which are channels, to their positions: [N, s1 * ... * O, q1...] to [N, O, s1 * q1...]."""
    node, rank = match.node, len(match.axes)
    types = None if match.is_cut else [node.output.type]
    strides = [axis.stride for axis in match.axes]
    if match.is_square:
        attributes = {"blocksize": strides[0], "mode": "CRD" if match.is_inner else "DCR"}
        return rewriter.op("DepthToSpace", [whole], attributes, types=types).output
    sizes = _sizes(node.inputs[0], rank)
    rows = [size + axis.rows if isinstance(size, int) else -1 for size, axis in zip(sizes, match.axes, strict=True)]
    channels = [match.outputs, *strides] if match.is_inner else [*strides, match.outputs]
    apart = rewriter.constant(np.array([0, *channels, *rows], np.int64), f"{node.name}_apart")
    first = 2 if match.is_inner else 1  # axis of the first stride
    perm = [0, 1 if match.is_inner else rank + 1]
    for axis in range(rank):
        perm += [rank + 2 + axis, first + axis]
    turned = rewriter.op("Transpose", [rewriter.op("Reshape", [whole, apart]).output], {"perm": perm}).output
    joined = [size if size < 0 else size * stride for size, stride in zip(rows, strides, strict=True)]
    together = rewriter.constant(np.array([0, match.outputs, *joined], np.int64), f"{node.name}_together")
    return rewriter.op("Reshape", [turned, together], types=types).output


def _cut(match: _Match, whole: Value, rewriter: Rewriter) -> Value:
    """Crop the outputs to those of the ConvTranspose."""
    last = np.iinfo(np.int64).max
    numbers = {
        "starts": [axis.crop for axis in match.axes],
        "ends": [-axis.rest if axis.rest else last for axis in match.axes],
        "axes": [2 + axis for axis in range(len(match.axes))],
    }
    name = match.node.name
    operands = [rewriter.constant(np.array(ints, np.int64), f"{name}_{what}") for what, ints in numbers.items()]
    return rewriter.op("Slice", [whole, *operands], types=[match.node.output.type]).output
