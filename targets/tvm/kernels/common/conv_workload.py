"""Workloads of convolution families: the parameters of a convolution, and all its sizes if values are blocked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.windows import Geometry
from graphopt.targets.tvm.kernels.family import FLOAT32, Dtypes, Workload


@dataclass(frozen=True)
class ConvSpec:
    """The parameters of a convolution, one entry per spatial dimension in the tuples."""

    out_channels: int
    in_channels: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    groups: int = 1

    def out_size(self, axis: int, size: Any) -> Any:
        """Return the extent of an output dimension for an input extent (an int or a TVM expression)."""
        padded = size + self.pads_begin[axis] + self.pads_end[axis]
        return (padded - self.dilations[axis] * (self.kernel[axis] - 1) - 1) // self.strides[axis] + 1


@dataclass(frozen=True)
class ConvWorkload(Workload):
    """A convolution whose result is channel-blocked, with all its sizes.

    `space` are the spatial extents of the input, `batch` is None if it is not known, `blocked` is the layout of the
    input, and `lanes` is v. `usual_weight`: no element of the weight is infinite, NaN or close to overflow, so that
    sums of a few of them are finite. `data_lanes`: the channels in a block of the input if that is not `lanes`.
    """

    spec: ConvSpec
    batch: int | None
    space: tuple[int, ...]
    lanes: int
    blocked: bool = True
    dtypes: Dtypes = FLOAT32
    usual_weight: bool = True
    data_lanes: int | None = None

    @property
    def key(self) -> str:
        """See `Workload.key`."""
        numbers = f"n{self.batch or '?'} {describe(self.spec, self.space)} v{self.lanes}"
        blocked = f" blocked{self.data_lanes or ''}" if self.blocked else ""
        return f"conv {numbers} {self.dtypes}{blocked}{'' if self.usual_weight else ' unusual weight'}"

    @property
    def flops(self) -> int:
        """See `Workload.flops`."""
        return 2 * (self.batch or 1) * self.spec.out_channels * math.prod(self.geometry.out_space) * self.depth

    @property
    def is_tunable(self) -> bool:
        """See `Workload.is_tunable`."""
        return self.batch != 0 and self.flops > 0

    @property
    def data_shape(self) -> tuple[int, ...]:
        """See `Workload.data_shape`."""
        batch, channels = self.batch or 1, self.spec.in_channels
        if not self.blocked:
            return (batch, channels, *self.space)
        return (batch, -(-channels // self.step), *self.space, self.step)

    @property
    def step(self) -> int:
        """The channels in a block of the input: 1 if it is not blocked."""
        return self.data_lanes or self.lanes if self.blocked else 1

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel has a separate filter."""
        channels = self.spec.in_channels == self.spec.out_channels
        return self.step == self.lanes and channels and 1 < self.spec.groups == self.spec.in_channels

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
        """The number of groups of whole blocks of channels."""
        return 1 if self.is_banded else self.spec.groups

    @property
    def group_in(self) -> int:
        """The number of input channels that an output block is a sum over, or of those in the widest band."""
        if self.is_banded:
            return self.lanes * max(count for _, count in map(self.band, range(self.blocks)))
        return self.spec.in_channels // self.groups

    @property
    def group_out(self) -> int:
        return self.spec.out_channels // self.groups

    @property
    def blocks(self) -> int:
        """The number of vectors of output channels in a group."""
        return -(-self.group_out // self.lanes)

    @property
    def depth(self) -> int:
        """The number of products per output element, including those with the zeros of a band."""
        return self.group_in * math.prod(self.spec.kernel)

    def band(self, block: Any) -> tuple[Any, Any]:
        """Return the first input block and their number, for all channels of the groups in an output block."""
        inputs, outputs = (size // self.spec.groups for size in (self.spec.in_channels, self.spec.out_channels))
        last = (block + 1) * self.lanes - 1
        if self.spec.out_channels % self.lanes:
            most = self.spec.out_channels - 1
            last = min(last, most) if isinstance(last, int) else tirx.min(last, long(most))
        first = block * self.lanes // outputs * inputs // self.lanes
        return first, -(-(last // outputs + 1) * inputs // self.lanes) - first

    def numbers(self) -> list[int]:
        """Return the workload as integers for an annotation: everything that matters once a family is chosen."""
        spec = self.spec
        layout = self.step if self.blocked else 0
        fixed = [self.batch or 0, self.lanes, layout, spec.out_channels, spec.in_channels, spec.groups]
        return [*fixed, *self.geometry.numbers()]

    @staticmethod
    def of(numbers: Sequence[int]) -> ConvWorkload:
        """Decode what `numbers` returned."""
        batch, lanes, step, outputs, inputs, groups, *rest = numbers
        shape = Geometry.of(rest)
        spec = ConvSpec(outputs, inputs, shape.kernel, shape.strides, shape.dilations, shape.begin, shape.end, groups)
        data_lanes = step if step not in (0, lanes) else None
        return ConvWorkload(spec, batch or None, shape.space, lanes, step > 0, data_lanes=data_lanes)


def describe(spec: ConvSpec, space: Sequence[int | None]) -> str:
    """Return all numbers of a convolution of an input of extents `space` (None if unknown), as in keys of records."""
    return (
        f"i{_by(spec.in_channels, *space)} o{spec.out_channels} k{_by(*spec.kernel)} s{_by(*spec.strides)}"
        f" d{_by(*spec.dilations)} p{_by(*spec.pads_begin)}+{_by(*spec.pads_end)} g{spec.groups}"
    )


def _by(*sizes: int | None) -> str:
    return "x".join("?" if size is None else str(size) for size in sizes)
