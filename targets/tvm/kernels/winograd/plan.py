"""Plans of a Winograd convolution, and the estimate whether it is faster than a direct one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.common.nest import even_split
from graphopt.targets.tvm.kernels.winograd.toom_cook import POINTS, TAPS
from graphopt.targets.tvm.machine import Machine

STRIP_BYTES = 4 << 20
"""The bytes of a strip's transformed inputs, which should stay in the last cache: weights are read once per strip."""

WORTH = 0.85
"""The share of the cycles of a direct convolution up to which the loss of accuracy pays."""
NEARLY = 1.05
"""The estimated cycles, relative to the best plan, up to which F(2, 3) is chosen for its much smaller weights."""
BYTES_PER_CYCLE = 4
"""The bandwidth of one core for weights in memory; measured 13 GB/s at 3.4 GHz. Two cores use all of it."""

MEETING = 5000
"""The cycles that threads wait for each other at the end of a parallel loop."""

EXPOSED = 0.7
"""The share of the time of reading weights from memory that does not overlap with arithmetic; measured 0.6 to 1."""


@dataclass(frozen=True)
class WinogradPlan:
    """The plan of a workload.

    `outputs` is m; the tiles of all images are divided into `strips` of nearly equal size; a register tile has
    `columns` tiles by `vectors` vectors of output channels. With `by_strips`, threads share the strips, otherwise the
    channels of one strip after the other.
    """

    outputs: int
    strips: int
    columns: int
    vectors: int
    by_strips: bool

    def to_ints(self) -> tuple[int, ...]:
        return dataclasses.astuple(self)

    @property
    def size(self) -> int:
        """The number of inputs of a tile along an axis."""
        return self.outputs + TAPS - 1

    @property
    def frequencies(self) -> int:
        return self.size**2


@dataclass(frozen=True)
class Tiling:
    """The tiles that cover a workload's output: `down` x `across` in each of `images`."""

    images: int
    down: int
    across: int

    @property
    def tiles(self) -> int:
        return self.images * self.down * self.across


def tiling(workload: ConvWorkload, outputs: int) -> Tiling:
    """Return the tiles of `outputs` x `outputs` positions that cover the result."""
    assert workload.batch is not None
    height, width = out_space(workload)
    return Tiling(workload.batch, -(-height // outputs), -(-width // outputs))


def out_space(workload: ConvWorkload) -> tuple[int, int]:
    """Return height and width of the result."""
    height, width = workload.geometry.out_space
    return height, width


def applies(workload: ConvWorkload) -> bool:
    """Return whether this is a 3x3 convolution of blocked data with stride, dilation and group 1, and known sizes.

    A weight whose transform would not be finite is excluded.
    """
    spec = workload.spec
    plain = (spec.kernel, spec.strides, spec.dilations, spec.groups) == ((TAPS, TAPS), (1, 1), (1, 1), 1)
    if not plain or not workload.blocked or not workload.usual_weight or not workload.batch:
        return False
    if min(spec.in_channels, spec.out_channels) < 1:
        return False
    return min(spec.pads_begin + spec.pads_end) >= 0 and min(out_space(workload)) > 0


def plan_winograd(workload: ConvWorkload, machine: Machine) -> WinogradPlan | None:
    """Return the plan that needs the fewest cycles, or nearly so with smaller weights; None if none applies."""
    estimates = {plan: cycles(workload, plan, machine) for plan in _plans(workload, machine)}
    fewest = min(estimates.values(), default=0.0)
    nearly = [plan for plan, estimate in estimates.items() if estimate <= NEARLY * fewest]
    return min(nearly, key=lambda plan: (plan.frequencies, estimates[plan]), default=None)


def worth(workload: ConvWorkload, machine: Machine) -> WinogradPlan | None:
    """Return the plan if it should need clearly fewer cycles than a direct, more accurate convolution; else None."""
    plan = plan_winograd(workload, machine)
    if plan is None or cycles(workload, plan, machine) > WORTH * direct_cycles(workload, machine):
        return None
    return plan


def candidates(workload: ConvWorkload, machine: Machine) -> list[WinogradPlan]:
    """Return the default, then alternatives: both variants, the best register tiles, shorter and longer strips."""
    found = set()
    for outputs in POINTS:
        plans = [plan for plan in _plans(workload, machine) if plan.outputs == outputs]
        for plan in sorted(plans, key=lambda plan: cycles(workload, plan, machine))[:3]:
            for strips in (plan.strips, -(-plan.strips // 2), 2 * plan.strips):
                if strips <= tiling(workload, outputs).tiles:
                    found.add(dataclasses.replace(plan, strips=strips))
    return sorted(found, key=lambda plan: cycles(workload, plan, machine))


def _plans(workload: ConvWorkload, machine: Machine) -> list[WinogradPlan]:
    """Return every register tile, with threads sharing strips or channels, and strips as long as the caches allow."""
    if not applies(workload):
        return []
    found = []
    for outputs in POINTS:
        tiles = tiling(workload, outputs).tiles
        for by_strips in (False, True):
            for vectors in range(1, min(workload.blocks, machine.accumulators) + 1):
                strips = -(-tiles // _longest(workload, outputs, vectors, machine))
                if by_strips:
                    strips = -(-strips // machine.cores) * machine.cores
                if strips > tiles:
                    continue
                found += [
                    WinogradPlan(outputs, strips, columns, vectors, by_strips)
                    for columns in range(1, min(-(-tiles // strips), machine.accumulators // vectors) + 1)
                ]
    return found


def _longest(workload: ConvWorkload, outputs: int, vectors: int, machine: Machine) -> int:
    """Return the tiles of the longest strip whose inputs fit the last cache and whose products fit a core's cache."""
    frequencies = (outputs + TAPS - 1) ** 2
    inputs = STRIP_BYTES // (4 * frequencies * workload.spec.in_channels)
    products = machine.l2_bytes // (4 * frequencies * vectors * workload.lanes)
    return max(1, min(inputs, products))


def cycles(workload: ConvWorkload, plan: WinogradPlan, machine: Machine) -> float:
    """Return the cycles of a plan on all cores of the machine, with weights that come from memory.

    Two multiply-adds and two loads per cycle, results after four cycles. The transforms' share was measured for F(4,
    3), 160 and 115 cycles for a vector of tiles, and is assumed to grow with the number of frequencies.
    """
    depth, lanes = workload.spec.in_channels, workload.lanes
    tiles = tiling(workload, plan.outputs).tiles
    panels = -(-workload.blocks // plan.vectors)
    from_l2 = depth * plan.vectors * lanes * 4 > machine.l1_bytes // 2
    strip = sum(
        count * (depth * _step_cycles(columns, plan.vectors, from_l2) + 1.5 * columns * plan.vectors + 15)
        for _, columns, count in even_split(-(-tiles // plan.strips), plan.columns)
    )
    products = plan.frequencies * panels * plan.strips * strip
    transforming = plan.frequencies * tiles * (4.5 * -(-depth // lanes) + 3.2 * workload.blocks)
    weights = plan.frequencies * depth * panels * plan.vectors * lanes
    # What does not fit into the last cache is read from memory for every strip.
    reading = _memory_cycles(weights * (plan.strips if 4 * weights > STRIP_BYTES else 1), machine)
    pieces = plan.strips if plan.by_strips else panels
    uneven = -(-pieces // machine.cores) * machine.cores / pieces
    meetings = 1 if plan.by_strips else 2 * plan.strips
    return (products * uneven + transforming) / machine.cores + reading + MEETING * meetings


def _step_cycles(columns: int, vectors: int, from_l2: bool) -> float:
    loads = columns + vectors
    return max(columns * vectors / 2, loads / 2, 4) + 0.1 * loads + (0.25 * vectors if from_l2 else 0)


def _memory_cycles(weights: int, machine: Machine) -> float:
    """Return the cycles that reading so many fp32 numbers from memory adds."""
    return EXPOSED * 4 * weights / (BYTES_PER_CYCLE * min(machine.cores, 2))


def direct_cycles(workload: ConvWorkload, machine: Machine) -> float:
    """Return the cycles of a direct convolution at 90 % of the peak."""
    height, width = out_space(workload)
    weights = TAPS**2 * workload.spec.in_channels * workload.blocks * workload.lanes
    products = TAPS**2 * workload.spec.in_channels * workload.blocks * (workload.batch or 1) * height * width
    return products * 0.5 / 0.9 / machine.cores + _memory_cycles(weights, machine)
