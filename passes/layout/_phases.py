"""Decomposition of a transposed convolution into ordinary ones: which taps of its kernel contribute to which outputs.

Along one axis with stride s, output s * q + r belongs to phase r. It is the sum over m of input q - m times tap t,
where t * dilation = s * m + r + begin: only every s-th tap of the kernel contributes, and q moves over the inputs one
by one. So each phase is a convolution of stride 1 with a part of the kernel, reversed: the sub-pixel decomposition (Shi
et al., "Is the deconvolution layer the same as a convolutional layer?", arXiv 1609.07009).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir import Node
from graphopt.rewriting.passes import Miss


@dataclass(frozen=True)
class Phase:
    """One of every s outputs along an axis, as a convolution: its taps (-1 for a zero) and the padding of its input."""

    taps: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Axis:
    """An axis of a transposed convolution. Each phase has `rows` more outputs than there are inputs (or fewer).

    Of all outputs in order, `crop` come before the ones to keep, and `rest` after.
    """

    dilation: int
    """The stride of the convolutions that compute the phases."""
    phases: tuple[Phase, ...]
    rows: int
    crop: int
    rest: int

    @property
    def stride(self) -> int:
        return len(self.phases)

    @property
    def has_gaps(self) -> bool:
        """Whether a phase has zeros in the place of taps."""
        return any(tap < 0 for phase in self.phases for tap in phase.taps)

    @property
    def taps(self) -> int:
        """The number of taps of all phases."""
        return sum(len(phase.taps) for phase in self.phases)


@dataclass(frozen=True)
class Reach:
    """The geometry of an axis of a ConvTranspose: the result has `stride` outputs for each input, and `more`.

    The first of them is output `begin` among those that the kernel reaches from the inputs.
    """

    kernel: int
    stride: int
    dilation: int
    begin: int
    more: int

    def apart(self) -> Axis:
        """Return the phases with only the taps that each needs."""
        taps = [self._taps(phase) or {0: -1} for phase in range(self.stride)]
        spans = [(min(found), max(found)) for found in taps]
        turned = [[found[m] for m in sorted(found, reverse=True)] for found in taps]
        return self._axis(turned, spans, self.dilation // math.gcd(self.dilation, self.stride), 0)

    def together(self) -> Axis:
        """Return phases that all read the same inputs, with zeros for the taps that one of them lacks.

        If the outputs begin in the middle of a stride, more inputs may be read than if the first outputs are cropped.
        """
        return min(
            (self._filled(crop) for crop in {0, self.begin % self.stride}), key=lambda axis: (axis.taps, axis.crop)
        )

    def _filled(self, crop: int) -> Axis:
        whole = Reach(self.kernel, self.stride, self.dilation, self.begin - crop, self.more + crop)
        taps = [whole._taps(phase) for phase in range(self.stride)]
        first, last = min(m for found in taps for m in found), max(m for found in taps for m in found)
        turned = [[found.get(m, -1) for m in range(last, first - 1, -1)] for found in taps]
        return whole._axis(turned, [(first, last)] * self.stride, 1, crop)

    def _taps(self, phase: int) -> dict[int, int]:
        """Return the taps of a phase, by the distance of the input that each is multiplied by."""
        offsets = {tap: tap * self.dilation - phase - self.begin for tap in range(self.kernel)}
        return {offset // self.stride: tap for tap, offset in offsets.items() if offset % self.stride == 0}

    def _axis(self, taps: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]], dilation: int, crop: int) -> Axis:
        # Padding is not negative: instead of cropping inputs, outputs are cropped.
        shift = max(0, -min(last for _, last in spans))
        more = self.more + shift * self.stride
        rows = max(-(-more // self.stride), *(first + shift for first, _ in spans))
        phases = (
            Phase(tuple(turned), last + shift, rows - first - shift)
            for turned, (first, last) in zip(taps, spans, strict=True)
        )
        return Axis(dilation, tuple(phases), rows, crop + shift * self.stride, rows * self.stride - more)


def reaches(node: Node, kernel: Sequence[int], sizes: Sequence[object]) -> list[Reach] | Miss:
    """Return the axes of a ConvTranspose whose input has these spatial sizes (not an int if unknown)."""
    rank = len(kernel)
    strides, dilations = node.attr("strides") or [1] * rank, node.attr("dilations") or [1] * rank
    extra, pads = node.attr("output_padding") or [0] * rank, node.attr("pads") or [0] * (2 * rank)
    mode, wanted = node.attr("auto_pad", "NOTSET") or "NOTSET", node.attr("output_shape")
    if min(pads) < 0:
        return Miss("its padding is negative")
    found = []
    for index, size in enumerate(sizes):
        stride, dilation = strides[index], dilations[index]
        full = (kernel[index] - 1) * dilation + 1 + extra[index] - stride
        if wanted is None and mode in ("NOTSET", "VALID"):
            begin, end = (pads[index], pads[rank + index]) if mode == "NOTSET" else (0, 0)
            more = full - begin - end
        else:
            if wanted is None:
                more = min(full, 0)  # a filter shorter than the stride leaves nothing to crop
            elif isinstance(size, int):
                more = wanted[-rank:][index] - size * stride
            else:
                return Miss("its result has a fixed size, its input has not")
            total = max(full - more, 0)
            begin = total // 2 if mode == "SAME_UPPER" else total - total // 2
        found.append(Reach(kernel[index], stride, dilation, begin, more))
    return found


@dataclass(frozen=True)
class Piece:
    """Consecutive phases, in row-major order of all axes, that are channels of one convolution."""

    phases: tuple[tuple[Phase, ...], ...]

    @property
    def pads(self) -> list[int]:
        first = self.phases[0]
        return [phase.begin for phase in first] + [phase.end for phase in first]

    def weight(self, kernel: np.ndarray, groups: int) -> np.ndarray:
        """[groups, phases, O / groups, I / groups, taps...] of a transposed convolution's [I, O / groups, k1...kn]."""
        inputs, outputs, *sizes = kernel.shape
        grouped = kernel.reshape(groups, inputs // groups, outputs, *sizes).swapaxes(1, 2)
        grouped = np.pad(grouped, [(0, 0)] * 3 + [(0, 1)] * len(sizes))  # the last one, which -1 refers to, is zero
        parts = []
        for phases in self.phases:
            part = grouped
            for axis, phase in enumerate(phases):
                part = np.take(part, phase.taps, axis=3 + axis)
            parts.append(part)
        return np.stack(parts, axis=1)


def pieces_of(axes: Sequence[Axis]) -> list[Piece]:
    """Return all phases, where consecutive ones that read the same inputs form a piece."""
    every = itertools.product(*(axis.phases for axis in axes))
    alike = itertools.groupby(every, lambda phases: [(len(p.taps), p.begin, p.end) for p in phases])
    return [Piece(tuple(group)) for _, group in alike]
