"""The CPU schedule of an injective block that reads along one axis and writes along another.

Both axes are divided into square tiles, which `transpose_tiles` transposes in registers. Tiles are visited in bands of
two side by side, so that the second half of a cache line is used right after the first; along the longer axis, because
the strides of the other are then short, which suits caches and page tables better.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.s_tir import Schedule

from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common import steps
from graphopt.targets.tvm.kernels.common.blocks import Axis, BlockInfo
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.tir_passes.transpose import COLUMNS, ROWS, TRANSPOSE

LONGEST = 16
"""The number of rows of a tile: more would not fit in registers."""


@dataclass(frozen=True)
class Transposition:
    """Axes that are one loop each: `read` (positions first to last) along which memory is read, `written` (to the last
    axis) along which it is written; tiles of `lanes` elements on a side."""

    read: range
    written: range
    lanes: int


def find(sch: Schedule, info: BlockInfo, machine: Machine) -> Transposition | None:
    """Return what to transpose in an injective block, None if nothing."""
    loads = facts.loads_of(sch, info.rv)
    kinds = {info.dtype, *(str(load.source.dtype) for load in loads)}
    if "bool" in kinds:
        return None  # bits and sub-byte types have no vectors in memory
    lanes = min(LONGEST, *(machine.lanes(kind) for kind in kinds))
    if lanes < 2:
        return None
    axes = info.axes
    steps = [[facts.step_within(load, axis.var, lanes) for load in loads] for axis in axes]
    last = max((i for i, axis in enumerate(axes) if not facts.is_unit(axis)), default=None)
    if last is None or axes[last].store != 1:
        return None
    turned = [n for n, step in enumerate(steps[last]) if step not in (0, 1)]
    written = range(facts.trailing_group(axes), len(axes))
    # No axis is read along an axis of size one, such as the only channel of a block.
    along = [i for i in range(last) if not facts.is_unit(axes[i]) and any(steps[i][n] == 1 for n in turned)]
    if len(along) != 1 or along[0] in written:
        return None
    first = along[0]
    while first > 0 and facts.fusible(axes[first - 1], axes[first]) and not facts.is_unit(axes[first - 1]):
        first -= 1
    found = Transposition(range(first, along[0] + 1), written, lanes)
    return found if _fits(axes, found.read, lanes) and _fits(axes, found.written, lanes) else None


def _fits(axes: list[Axis], group: range, lanes: int) -> bool:
    size = facts.product(axes[i].size for i in group)
    return size is None or size >= lanes


def transpose(sch: Schedule, info: BlockInfo, found: Transposition, threads: bool) -> None:
    """Order loops: [other axes] [bands of two tiles along the shorter axis] [tiles along the longer] [pair] [tile]."""
    loops, lanes = sch.get_loops(info.rv), found.lanes
    taken = {*found.read, *found.written}
    others = [i for i in range(len(loops)) if i not in taken]
    read = steps.fuse_all(sch, [loops[i] for i in found.read])
    written = steps.fuse_all(sch, [loops[i] for i in found.written])
    read_size = facts.product(info.axes[i].size for i in found.read)
    written_size = facts.product(info.axes[i].size for i in found.written)
    outer = [loops[i] for i in others]
    if written_size is None or (read_size is not None and read_size <= written_size):
        bands, pair, row = sch.split(read, [None, 1 if read_size == lanes else 2, lanes])
        tiles, column = sch.split(written, [None, lanes])
    else:
        bands, pair, column = sch.split(written, [None, 1 if written_size == lanes else 2, lanes])
        tiles, row = sch.split(read, [None, lanes])
    sch.reorder(*outer, bands, tiles, pair, row, column)
    sch.vectorize(column)
    rows, columns = (all(_is_linear(info.axes[i]) for i in group) for group in (found.read, found.written))
    sch.annotate(row, TRANSPOSE, ROWS * rows + COLUMNS * columns)
    if threads:
        sizes = [info.axes[i].size for i in others]
        counts = [facts.extent(sch.get(loop).extent) for loop in (bands, tiles)]
        steps.parallelize(sch, [*outer, bands, tiles], [*sizes, *counts])


def _is_linear(axis: Axis) -> bool:
    """Return whether everything that depends on the axis is linear in it, so that a tile may begin anywhere."""
    return not axis.branches and not axis.in_value and None not in axis.loads
