"""Plans of a convolution in plain layout: its workload, and the register tile chosen for a machine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.targets.tvm.kernels.common.conv_workload import ConvSpec, describe
from graphopt.targets.tvm.kernels.family import FLOAT32, Dtypes, Workload
from graphopt.targets.tvm.machine import Machine

USUAL_WIDTH = 64
"""The assumed width of a row of unknown width: a tile that wide would be mostly empty for a small image."""


WORTH_MEASURING = 8
"""The number of plans to keep, the best by estimated cost."""


@dataclass(frozen=True)
class PlainConvWorkload(Workload):
    """One convolution of values in plain layout; `batch` and the extents `space` are None where they are not known."""

    spec: ConvSpec
    batch: int | None
    space: tuple[int | None, ...]
    dtypes: Dtypes = FLOAT32

    @property
    def key(self) -> str:
        """See `Workload.key`."""
        return f"plain-conv n{self.batch or '?'} {describe(self.spec, self.space)} {self.dtypes}"

    @property
    def flops(self) -> int:
        """See `Workload.flops`; unknown sizes count as 1."""
        spec = self.spec
        out = [1 if size is None else spec.out_size(axis, size) for axis, size in enumerate(self.space)]
        depth = spec.in_channels // spec.groups * math.prod(spec.kernel)
        return 2 * (self.batch or 1) * spec.out_channels * math.prod(out) * depth

    @property
    def is_tunable(self) -> bool:
        """See `Workload.is_tunable`."""
        return self.batch != 0 and None not in self.space and self.flops > 0

    @property
    def data_shape(self) -> tuple[int, ...]:
        """See `Workload.data_shape`."""
        return (self.batch or 1, self.spec.in_channels, *(size or 0 for size in self.space))


@dataclass(frozen=True)
class ConvPlan:
    """A plan of a convolution; `candidates` generates them."""

    spec: ConvSpec
    method: str
    """"channels" or "rows"."""
    lanes: int
    """The number of elements of a vector."""
    tile: int
    """The positions of a row ("channels") or vectors along a row ("rows") in a register tile."""
    channel_tile: int
    """The vectors of channels ("channels") or channels ("rows") in a register tile."""
    flat: bool
    """Whether all spatial dimensions are fused (a 1x1 convolution without stride and padding)."""
    padded: bool
    """Whether a padding stage copies the input."""
    dtypes: Dtypes

    @property
    def group_out(self) -> int:
        return self.spec.out_channels // self.spec.groups

    @property
    def group_in(self) -> int:
        return self.spec.in_channels // self.spec.groups

    @property
    def channel_block(self) -> int:
        """Output channels in the innermost dimension of the packed weight."""
        return self.lanes if self.method == "channels" else self.channel_tile

    @property
    def blocks(self) -> int:
        """Blocks of output channels in a group."""
        return -(-self.group_out // self.channel_block)

    @property
    def taps(self) -> tuple[int, ...]:
        return () if self.flat else self.spec.kernel

    @property
    def packed_shape(self) -> tuple[int, ...]:
        return (self.spec.groups, self.blocks, self.group_in, *self.taps, self.channel_block)


def candidates(workload: PlainConvWorkload, machine: Machine) -> list[ConvPlan]:
    """The plans worth measuring, the best guess first."""
    scored = sorted(_scored(workload, machine), key=lambda pair: pair[0])
    return [plan for _, plan in scored[:WORTH_MEASURING]]


def cost(workload: PlainConvWorkload, plan: ConvPlan, machine: Machine) -> float:
    """Estimated vector operations of one of the plans for each vector of results."""
    return next(score for score, other in _scored(workload, machine) if other == plan)


def _scored(workload: PlainConvWorkload, machine: Machine) -> list[Scored]:
    spec, space = workload.spec, workload.space
    plain = not any(spec.pads_begin) and not any(spec.pads_end)
    flat = plain and all(k == 1 for k in spec.kernel) and all(s == 1 for s in spec.strides)
    flat = flat and None not in space  # dividing by a symbolic width costs more than row remainders
    width: int | None
    if flat:
        width = math.prod(size or 0 for size in space)
    else:
        last = space[-1]
        width = None if last is None else spec.out_size(len(space) - 1, last)
    return [
        *_rows(spec, width, flat, plain, workload.dtypes, machine),
        *_channels(spec, width, flat, plain, workload.dtypes, machine),
    ]


def _cost_of_padding(spec: ConvSpec, padded: bool, plain: bool, lanes: int) -> float:
    """Return the vector operations per output vector for a copy that only this plan needs."""
    return 2.0 * spec.in_channels / spec.out_channels if padded and plain else 0.0


Scored = tuple[float, ConvPlan]


def _rows(spec: ConvSpec, width: int | None, flat: bool, plain: bool, dtypes: Dtypes, machine: Machine) -> list[Scored]:
    full = machine.lanes(dtypes.accumulator)
    lanes = full if width is None else min(full, 1 << max(0, (width - 1).bit_length()))
    group_out = spec.out_channels // spec.groups
    reduction = spec.in_channels // spec.groups * math.prod(spec.kernel)
    found = []
    for channels in (1, 2, 4, 6, 8):
        for vectors in range(1, 9):
            if channels > group_out or channels * vectors > machine.accumulators:
                continue
            if spec.groups > 1 and group_out % channels:
                continue  # a tile would span two groups
            wide = 1 << 30 if width is None else width
            if vectors > 1 and (vectors - 1) * lanes >= wide:
                continue
            step = lanes * vectors
            tiles = -(-wide // step)
            fits = plain and width is not None and width % step == 0 and spec.strides[-1] == 1
            waste = tiles * step / wide if width is not None else 1 + step / (2 * USUAL_WIDTH)
            waste *= full / lanes
            waste *= -(-group_out // channels) * channels / group_out
            # Per multiply-add of a vector: loads of the tile's operands, and stalls if there are few accumulators.
            loads = 0.5 * (channels + vectors) / (channels * vectors)
            stall = max(1.0, 8 / (channels * vectors))
            padded = not fits
            cost = reduction * waste * max(1.0, loads * 2) * stall + 1
            cost += _cost_of_padding(spec, padded, plain, lanes)
            plan = ConvPlan(spec, "rows", lanes, vectors, channels, flat, padded, dtypes)
            found.append((cost, plan))
    return found


def _channels(
    spec: ConvSpec, width: int | None, flat: bool, plain: bool, dtypes: Dtypes, machine: Machine
) -> list[Scored]:
    lanes = machine.lanes(dtypes.accumulator)
    group_out = spec.out_channels // spec.groups
    reduction = spec.in_channels // spec.groups * math.prod(spec.kernel)
    if group_out * 2 < lanes or (spec.groups > 1 and group_out % lanes):
        return []
    found = []
    blocks = -(-group_out // lanes)
    for tile in range(2, 15):
        for channels in (1, 2, 4):
            if channels * tile > machine.accumulators or blocks % channels:
                continue
            if width is not None and tile > width:
                continue
            waste = blocks * lanes / group_out
            if width is not None:
                waste *= -(-width // tile) * tile / width
            padded = not plain or width is None or width % tile != 0
            loads = 0.5 * (channels + tile) / (channels * tile)
            stall = max(1.0, 8 / (channels * tile))
            cost = reduction * waste * max(1.0, loads * 2) * stall + 1.5 * lanes
            cost += _cost_of_padding(spec, padded, plain, lanes)
            plan = ConvPlan(spec, "channels", lanes, tile, channels, flat, padded, dtypes)
            found.append((cost, plan))
    return found
