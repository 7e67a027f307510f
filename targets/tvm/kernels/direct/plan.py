"""Plans of a direct convolution of channel-blocked activations: the register tile and the order of loops.

`plan_direct` chooses in closed form, `candidates` lists what is worth measuring.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.common.dot import INTEGER, NAMES, Dot, bytes_of, dot_for
from graphopt.targets.tvm.kernels.common.nest import even_split
from graphopt.targets.tvm.machine import Machine


@dataclass(frozen=True)
class DirectPlan:
    """The plan of a workload: the register tile, and the order of loops around it.

    With `bands`, an image is divided into that many bands, and all output channels of one are computed while its data
    stays in cache; otherwise a tile's weights stay in cache while all images are processed. With a `chunk`, the rows
    are processed once per that many blocks of input channels, whose weights then stay in the L1 cache; the partial sums
    are kept in memory in between. `way`: the position in `dot.NAMES` of the machine's instruction, of which there is
    only one for a workload.
    """

    columns: int
    vectors: int
    bands: int = 0
    chunk: int = 0
    way: int = 0

    def dot(self, workload: ConvWorkload) -> Dot:
        """Return how a tile multiplies."""
        return Dot(NAMES[self.way], workload.lanes)

    def to_ints(self) -> tuple[int, ...]:
        return dataclasses.astuple(self)


def tiles_of(workload: ConvWorkload, vectors: int) -> list[tuple[int, int, int]]:
    """Return the tiles of up to `vectors` output blocks of a group, as runs (first block, size of a tile, tiles).

    The blocks of a tile have the same band: blocks with the end of one group and the beginning of the next are
    separate.
    """
    if not workload.is_banded:
        return even_split(workload.blocks, vectors)
    runs: list[tuple[int, int, int]] = []
    blocks = 0
    for _, alike in itertools.groupby(map(workload.band, range(workload.blocks))):
        count = len(list(alike))
        for first, size, tiles in even_split(count, vectors):
            if runs and runs[-1][1] == size:
                runs[-1] = (runs[-1][0], size, runs[-1][2] + tiles)
            else:
                runs.append((blocks + first, size, tiles))
        blocks += count
    return runs


def plan_direct(workload: ConvWorkload, machine: Machine) -> DirectPlan:
    """Return the tile that needs the fewest cycles, counting multiply-adds, loads and latency."""
    best = min(_tiles(workload, machine), key=lambda plan: cycles(workload, plan, machine))
    return dataclasses.replace(best, bands=_bands(workload, best, machine), chunk=_chunk(workload, best, machine))


def candidates(workload: ConvWorkload, machine: Machine) -> list[DirectPlan]:
    """Return the default first, then alternatives: the best tiles by the same count, in other orders of loops."""
    best = sorted(_tiles(workload, machine), key=lambda plan: cycles(workload, plan, machine))[:6]
    cut = max(1, -(-_data_bytes(workload) // (machine.l2_bytes // 2)))
    found = []
    for bands, chunked in ((0, True), (cut, False), (0, False), (4 * cut, False), (cut, True)):
        for plan in best:
            chunk = _chunk(workload, plan, machine) if chunked else 0
            found.append(dataclasses.replace(plan, bands=bands, chunk=chunk))
    return list(dict.fromkeys([plan_direct(workload, machine), *found]))


def _tiles(workload: ConvWorkload, machine: Machine) -> list[DirectPlan]:
    """Return register tiles. If data is not blocked, LLVM unrolls all taps of a row and keeps what they share.

    It keeps some of it in a tile of one vector too, so a tile of all accumulators would spill.
    """
    dot = dot_for(workload.dtypes, workload.lanes, machine)
    most = dot.accumulators(machine) if workload.blocked else machine.accumulators * 3 // 4
    alone = min(most, machine.registers - 6) if workload.geometry.taps > 1 else most
    way = NAMES.index(dot.name)
    return [
        DirectPlan(columns, vectors, way=way)
        for columns in range(1, min(workload.geometry.width, most) + 1)
        for vectors in range(1, min(workload.blocks, most // columns) + 1)
        if vectors > 1 or columns <= alone
    ]


def _tile_bytes(workload: ConvWorkload, plan: DirectPlan) -> int:
    """Return the bytes of the weights of a tile of output channels."""
    depth = packed_depth(workload, plan.dot(workload).width)
    return bytes_of(workload.dtypes.weight) * depth * plan.vectors * workload.lanes


def _data_bytes(workload: ConvWorkload) -> int:
    """Return the bytes of an image."""
    return bytes_of(workload.dtypes.data) * workload.spec.in_channels * math.prod(workload.space)


def _bands(workload: ConvWorkload, plan: DirectPlan, machine: Machine) -> int:
    """Return the number of bands whose data half fills the L2 cache; 0 if that would cause more reads than it saves.

    Without bands, all data is read once per tile of output channels; with them, all weights once per band. Partial sums
    must not take an unlimited amount of memory, and those of bytes, which are made fast, stay in the L2 cache.
    """
    batch, data = workload.batch or 1, _data_bytes(workload)
    near = machine.l2_bytes // 2
    tiles = sum(count for _, _, count in tiles_of(workload, plan.vectors))
    bands = max(1, -(-data // near))
    weights = bytes_of(workload.dtypes.weight) * packed_size(workload, plan)
    most = near if workload.dtypes == INTEGER else 4 * near
    if _chunk(workload, plan, machine) and _sums_bytes(workload, plan) > most:
        return -(-_sums_bytes(workload, plan) // most)
    if batch * data <= 4 * near or not workload.blocked:
        return 0
    return bands if batch * (data + bands * max(0, weights - near)) < 0.4 * batch * data * tiles else 0


def _sums_bytes(workload: ConvWorkload, plan: DirectPlan) -> int:
    """Return the bytes of the sums of a tile of output channels over an image."""
    geometry = workload.geometry
    return 4 * geometry.rows * geometry.width * plan.vectors * workload.lanes


def _chunk(workload: ConvWorkload, plan: DirectPlan, machine: Machine) -> int:
    """Return how many blocks of input channels have weights that nearly fill the L1 cache; 0 if chunks are not needed.

    They are needed if a tile's weights leave no room for data in the L2 cache, and they help if the partial sums take
    little room in the L1 cache. Bytes of data need them whenever weights do not stay in the L1 cache. If there are few
    tiles, weights are hardly reused at all.
    """
    geometry = workload.geometry
    tiles = geometry.rows * -(-geometry.width // plan.columns)
    full, rest = divmod(workload.group_in, workload.step)
    if not workload.blocked or workload.is_banded or rest or tiles < 4:
        return 0
    weights = _tile_bytes(workload, plan)
    small = _sums_bytes(workload, plan) <= machine.l1_bytes // 4
    near = machine.l1_bytes if small else machine.l2_bytes // 4
    if workload.dtypes == INTEGER:
        near = _room(workload, machine)
    if weights <= near:
        return 0
    most = machine.l1_bytes * 3 // 4 * full // weights
    return max((size for size in range(1, max(1, most) + 1) if full % size == 0), default=0)


@dataclass(frozen=True)
class _Costs:
    """The cycles that a load takes beside multiplications: of an element for all lanes, and of a vector of weights.

    `far`: for weights from the L2 cache, additionally. `exchange`: to load and store a vector of sums that are not in
    the L1 cache.
    """

    broadcast: float
    vector: float
    far: float
    exchange: float


_COSTS = _Costs(0.14, 0.1, 0.1, 4)
_COSTS_OF_BYTES = _Costs(0.3, 0.2, 0.6, 2)
"""Fitted to kernels of ResNet-50 on a processor with VNNI."""


def cycles(workload: ConvWorkload, plan: DirectPlan, machine: Machine) -> float:
    """Return the cycles for one step of the reduction over a row and all channels of a group, by ports and latency.

    Two multiply-adds and two loads per cycle, results after four cycles. Each load also takes a decoder slot, a
    broadcast a little more, and weights that do not fit into the L1 cache arrive later. With chunks, the sums are
    loaded and stored for each.
    """
    chunk = _chunk(workload, plan, machine)
    near = chunk or _tile_bytes(workload, plan) <= _room(workload, machine)
    costs = _COSTS_OF_BYTES if workload.dtypes == INTEGER else _COSTS
    vector = costs.vector if near else costs.vector + costs.far
    exchange = 0.0
    if chunk:
        steps = chunk * workload.step // plan.dot(workload).width * workload.geometry.taps
        exchange = (2 if _sums_bytes(workload, plan) <= machine.l1_bytes // 4 else costs.exchange) / steps
    total = 0.0
    for _, columns, across in even_split(workload.geometry.width, plan.columns):
        for first, vectors, down in tiles_of(workload, plan.vectors):
            busy = max(columns * vectors / 2, 4, (columns + vectors) / 2)
            loads = costs.broadcast * columns + vector * vectors + exchange * columns * vectors
            share = 1.0
            if workload.is_banded:  # the share of the widest band
                tops = range(first, first + vectors * down, vectors)
                share = sum(workload.band(block)[1] for block in tops) * workload.lanes / (down * workload.group_in)
            total += across * down * (busy + loads) * share
    return total


def _room(workload: ConvWorkload, machine: Machine) -> int:
    """Return the bytes of weights that stay in the L1 cache beside the data; of unblocked data, few channels are read.

    Bytes of data take little room, and are multiplied so fast that their weights should always come from there.
    """
    if workload.dtypes == INTEGER:
        return machine.l1_bytes * 3 // 4
    return machine.l1_bytes // 3 if workload.blocked else machine.l1_bytes * 3 // 4


def padded(channels: int, width: int) -> int:
    """Return the number of channels rounded up to a multiple of `width`."""
    return -(-channels // width) * width


def packed_depth(workload: ConvWorkload, width: int) -> int:
    """Return the number of weights of an output channel in a packed weight."""
    return padded(workload.group_in, width) * math.prod(workload.spec.kernel)


def packed_size(workload: ConvWorkload, plan: DirectPlan) -> int:
    """Return the number of elements of a packed weight."""
    depth = packed_depth(workload, plan.dot(workload).width)
    return workload.groups * workload.blocks * depth * workload.lanes
