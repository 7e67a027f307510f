"""The CPU schedule of a reduction of columns: of an axis with a large stride, for many columns.

Memory is read in order: some rows at a time, from end to end of a chunk of columns whose partial results stay in the L1
cache, each loaded and stored once for all of these rows. Reducing one column after the other would read every row in
short pieces, too far apart for prefetching.
"""

from __future__ import annotations

import tvm_ffi
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV

from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common import steps
from graphopt.targets.tvm.kernels.common.blocks import Axis, BlockInfo
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.tir_passes.peel import PEEL

ROWS = 8
"""The number of rows read at a time: more streams than this are not prefetched."""
LEAST_VECTORS = 4
"""The number of vectors of columns below which a row is too short to be read from end to end."""
LEAST_CHUNK, MOST_CHUNK = 32, 256
"""The largest number of vectors of columns per parallel iteration."""
PIECES = 16
"""The desired number of chunks."""


def applies(sch: Schedule, info: BlockInfo, machine: Machine, first: int = 0) -> bool:
    """Return whether one operand is reduced, with contiguous columns (the last axis after `first`) and distant rows.

    Must be called before the block's loops are changed.
    """
    reduced = [axis for axis in info.axes if axis.kind == facts.REDUCE and not facts.is_unit(axis)]
    spatial = [axis for axis in info.axes[first:] if axis.kind == facts.SPATIAL and not facts.is_unit(axis)]
    if not reduced or not spatial or any(axis.branches for axis in info.axes) or len(sch.get(info.rv).writes) != 1:
        return False
    columns, rows = spatial[-1], reduced[-1]
    least = LEAST_VECTORS * machine.lanes(info.dtype)
    if not columns.contiguous or columns.store != 1 or (columns.size is not None and columns.size < least):
        return False
    loads = facts.loads_of(sch, info.rv)
    varying = [n for n in range(len(loads)) if any(axis.loads[n] != 0 for axis in reduced)]
    one = all(tvm_ffi.structural_equal(loads[n], loads[varying[0]]) for n in varying)
    return one and bool(varying) and _is_far(rows.loads[varying[0]], columns.size)


def _is_far(step: int | None, size: int | None) -> bool:
    return step is None or (step >= size if size is not None else step not in (0, 1))


def reduce_columns(sch: Schedule, info: BlockInfo, machine: Machine, threads: bool) -> None:
    """Schedule the whole block: [other axes, chunks of columns] in parallel."""
    outer, sizes, first = order_loops(sch, info, machine, list(zip(sch.get_loops(info.rv), info.axes, strict=True)))
    if threads:
        steps.parallelize(sch, outer, sizes)
    sch.vectorize(sch.get_loops(sch.decompose_reduction(info.rv, first))[-1])


def order_loops(
    sch: Schedule, info: BlockInfo, machine: Machine, nest: list[tuple[LoopRV, Axis]]
) -> tuple[list[LoopRV], list[int | None], LoopRV]:
    """Order loops: [other axes, chunks of columns] [other reduced axes] [groups of rows] [vectors] [rows] [vector].

    `nest` are the block's innermost loops, including all reduced axes and the columns. Return the first of these loops
    with their sizes, and the first loop of the reduction.
    """
    lanes = machine.lanes(info.dtype)
    reduced = [(loop, axis) for loop, axis in nest if axis.kind == facts.REDUCE]
    last = max(i for i, (_, axis) in enumerate(nest) if axis.kind == facts.SPATIAL and not facts.is_unit(axis))
    others = [pair for i, pair in enumerate(nest) if pair[1].kind == facts.SPATIAL and i != last]
    columns, size = nest[last][0], nest[last][1].size
    sch.reorder(*(loop for loop, _ in others), columns, *(loop for loop, _ in reduced))
    group = facts.trailing_group([axis for _, axis in reduced])
    rows = steps.fuse_all(sch, [loop for loop, _ in reduced[group:]])
    count = facts.product(axis.size for _, axis in reduced[group:])
    height = ROWS if count is None else min(ROWS, count)
    groups, row = sch.split(rows, [None, height])
    chunk = _chunk(size, lanes, facts.product(axis.size or 1 for _, axis in others) or 1)
    chunks, vectors, vector = sch.split(columns, [None, chunk, lanes])
    inner = [loop for loop, _ in reduced[:group]]
    sch.reorder(chunks, *inner, groups, vectors, row, vector)
    sch.unroll(row)
    sch.vectorize(vector)
    if size is None or size % (chunk * lanes):
        sch.annotate(vectors, PEEL, 1)
    if count is None or count % height:
        sch.annotate(groups, PEEL, 1)
    sizes = [*(axis.size for _, axis in others), facts.extent(sch.get(chunks).extent)]
    return [*(loop for loop, _ in others), chunks], sizes, [*inner, groups][0]


def _chunk(size: int | None, lanes: int, pieces: int) -> int:
    """Return the vectors per chunk, for enough chunks of nearly equal size for all cores."""
    if size is None:
        return LEAST_CHUNK
    vectors = -(-size // lanes)
    wanted = max(1, PIECES // pieces, -(-vectors // MOST_CHUNK))
    return -(-vectors // min(wanted, max(1, vectors // LEAST_CHUNK)))
