"""What the families of convolutions compute: the fixed numbers of one, and all its sizes where values are blocked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.windows import Geometry


@dataclass(frozen=True)
class ConvSpec:
    """A convolution's fixed numbers, one entry per spatial dimension in the tuples."""

    out_channels: int
    in_channels: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    groups: int = 1

    def out_size(self, axis: int, size: Any) -> Any:
        """Extent of an output dimension for an input extent (an int or a TVM expression)."""
        padded = size + self.pads_begin[axis] + self.pads_end[axis]
        return (padded - self.dilations[axis] * (self.kernel[axis] - 1) - 1) // self.strides[axis] + 1


@dataclass(frozen=True)
class ConvWorkload:
    """One convolution with all its sizes.

    `space` are the spatial extents of the input, `batch` is None where it is not known, `blocked` says how the input
    lies in memory, and `lanes` is v.
    """

    spec: ConvSpec
    batch: int | None
    space: tuple[int, ...]
    lanes: int
    blocked: bool = True

    @property
    def geometry(self) -> Geometry:
        spec = self.spec
        return Geometry(spec.kernel, spec.strides, spec.dilations, spec.pads_begin, spec.pads_end, self.space)

    @property
    def is_banded(self) -> bool:
        """Whether groups begin in the middle of blocks: each output block reads a band of input blocks (`band`)."""
        spec = self.spec
        sizes = (spec.in_channels, spec.out_channels)
        is_depthwise = sizes == (spec.groups, spec.groups)
        return spec.groups > 1 and not is_depthwise and any(size // spec.groups % self.lanes for size in sizes)

    @property
    def groups(self) -> int:
        """Groups of whole blocks of channels."""
        return 1 if self.is_banded else self.spec.groups

    @property
    def group_in(self) -> int:
        """Input channels that an output block is a sum over, or those of the widest band."""
        if self.is_banded:
            return self.lanes * max(count for _, count in map(self.band, range(self.blocks)))
        return self.spec.in_channels // self.groups

    @property
    def group_out(self) -> int:
        return self.spec.out_channels // self.groups

    @property
    def blocks(self) -> int:
        """Vectors of output channels in a group."""
        return -(-self.group_out // self.lanes)

    @property
    def depth(self) -> int:
        """Products that make one output element; those with the zeros of a band count."""
        return self.group_in * math.prod(self.spec.kernel)

    def band(self, block: Any) -> tuple[Any, Any]:
        """The first input block, and the number of them, that hold all channels of the groups in an output block."""
        inputs, outputs = (size // self.spec.groups for size in (self.spec.in_channels, self.spec.out_channels))
        last = (block + 1) * self.lanes - 1
        if self.spec.out_channels % self.lanes:
            most = self.spec.out_channels - 1
            last = min(last, most) if isinstance(last, int) else tirx.min(last, long(most))
        first = block * self.lanes // outputs * inputs // self.lanes
        return first, -(-(last // outputs + 1) * inputs // self.lanes) - first

    def numbers(self) -> list[int]:
        """As integers for an annotation."""
        spec = self.spec
        fixed = [self.batch or 0, self.lanes, int(self.blocked), spec.out_channels, spec.in_channels, spec.groups]
        return [*fixed, *self.geometry.numbers()]

    @staticmethod
    def of(numbers: Sequence[int]) -> ConvWorkload:
        """What `numbers` wrote."""
        batch, lanes, blocked, outputs, inputs, groups, *rest = numbers
        shape = Geometry.of(rest)
        spec = ConvSpec(outputs, inputs, shape.kernel, shape.strides, shape.dilations, shape.begin, shape.end, groups)
        return ConvWorkload(spec, batch or None, shape.space, lanes, bool(blocked))
