"""The CPU schedule of functions whose blocks share rows: softmax, normalizations, reductions with an epilogue.

All blocks are computed at the row loop of the last one, so that a row is read from memory once and stays in cache; rows
run in parallel, and inside a row every block has a vector loop.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from graphopt.targets.tvm.cpu import columns as columns_cpu
from graphopt.targets.tvm.cpu import generic as generic_cpu
from graphopt.targets.tvm.cpu.generic import attempt, vectorize_last
from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common import steps
from graphopt.targets.tvm.kernels.common.blocks import Axis, BlockInfo
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.tir_passes.peel import PEEL

ACCUMULATORS = 4
"""The number of vectors of partial results per row: with one, every step would wait for the previous one."""
MINIMUM_ROWS = 4
"""The number of rows below which running the blocks one after the other uses several cores better."""


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc | None:
    """Schedule `func` row by row; return None if its blocks do not share rows."""
    sch = generic_cpu.inline_injective(Schedule(tvm.IRModule({"main": func})))
    infos = [info for block in facts.child_blocks(sch) if (info := facts.describe(sch, block)) is not None]
    if len(infos) != len(facts.child_blocks(sch)) or len(infos) < 2 or not all(i.is_plain for i in infos):
        return None
    if not any(info.is_reduction for info in infos) or any(a.size == 0 for i in infos for a in i.axes):
        return None
    along = [info for info in infos if info.is_reduction and generic_cpu.is_row_reduction(info, machine)]
    shared = _shared_rows(sch, infos)
    if shared == 0 or not all(_whole_vectors(info, machine) for info in along):
        return None
    done = attempt(sch, lambda s: _by_rows(s, infos, shared, machine))
    return None if done is None else done.mod["main"]


def _shared_rows(sch: Schedule, infos: list[BlockInfo]) -> int:
    """Return how many leading spatial axes all blocks share; 0 if row-wise execution would not pay."""
    last = infos[-1]
    if last.is_reduction or any(not sch.get_consumers(info.rv) for info in infos[:-1]):
        return 0
    shared = len(last.axes)
    for info in infos[:-1]:
        same = 0
        for mine, other in zip(info.axes, last.axes, strict=False):
            if mine.kind != facts.SPATIAL or not tvm_ffi.structural_equal(mine.extent, other.extent):
                break
            if not facts.is_unit(mine) and (mine.store is None or mine.branches):
                break
            same += 1
        shared = min(shared, same, _columns(info))
    # Trailing unit axes are irrelevant to rows.
    while shared and facts.is_unit(last.axes[shared - 1]):
        shared -= 1
    rows = facts.product(axis.size for axis in last.axes[:shared])
    return shared if rows is None or rows >= MINIMUM_ROWS else 0


def _columns(info: BlockInfo) -> int:
    """Return the position of the vector axis of a column reduction, or the number of axes if it is not one."""
    last = [i for i, axis in enumerate(info.axes) if axis.kind == facts.SPATIAL and not facts.is_unit(axis)][-1:]
    if not info.is_reduction or not last or not info.axes[last[0]].contiguous or info.axes[last[0]].store != 1:
        return len(info.axes)
    return last[0]


def _by_rows(sch: Schedule, infos: list[BlockInfo], shared: int, machine: Machine) -> None:
    partial: dict[int, list[SBlockRV]] = {}
    columns = {
        n for n, info in enumerate(infos) if info.is_reduction and columns_cpu.applies(sch, info, machine, shared)
    }
    for position, info in enumerate(infos):
        if info.is_reduction and generic_cpu.is_row_reduction(info, machine):
            partial[position] = _factor(sch, info, machine)
    row = sch.get_loops(infos[-1].rv)[shared - 1]
    for position in reversed(range(len(infos) - 1)):
        sch.compute_at(infos[position].rv, row, preserve_unit_loops=True)
        for block in reversed(partial.get(position, [])):
            sch.compute_at(block, row, preserve_unit_loops=True)
    inits: list[tuple[SBlockRV, LoopRV]] = []
    for position, info in enumerate(infos):
        if position in partial:
            for block in partial[position]:
                inits.append((block, _vector_partial(sch, block, shared, machine.lanes(info.dtype))))
            inits.append((info.rv, _final_sum(sch, info.rv, shared)))
        elif position in columns:
            nest = list(zip(sch.get_loops(info.rv)[shared:], info.axes, strict=True))[shared:]
            inits.append((info.rv, columns_cpu.order_loops(sch, info, machine, nest)[2]))
        elif info.is_reduction:
            inits.append((info.rv, _vector_column(sch, info, shared, machine)))
        else:
            _vector_map(sch, info, shared, machine)
    if any(generic_cpu.worth_threads(info) for info in infos):
        rows = sch.get_loops(infos[-1].rv)[:shared]
        steps.parallelize(sch, rows, [axis.size for axis in infos[-1].axes[:shared]])
    for block, loop in inits:
        init = sch.decompose_reduction(block, loop)
        vectorize_last(sch, init)


def _whole_vectors(info: BlockInfo, machine: Machine) -> bool:
    """Return whether the axis along which a row is reduced is a known number of whole vectors.

    A partial last vector needs a predicate, which TVM drops when it moves a block of partial results into another's
    loops.
    """
    size = _reduced_last(info)[1].size
    return size is not None and size % machine.lanes(info.dtype) == 0


def _reduced_last(info: BlockInfo) -> tuple[int, Axis]:
    """The last reduced axis that is not of size one, and its position."""
    reduced = [(i, axis) for i, axis in enumerate(info.axes) if axis.kind == facts.REDUCE and not facts.is_unit(axis)]
    return reduced[-1]


def _factor(sch: Schedule, info: BlockInfo, machine: Machine) -> list[SBlockRV]:
    """`rfactor` the last reduced axis into several vectors of partial results, so that one need not wait for the other.

    Return the block of these partial results, and that of the single vector that they are combined into (if there are
    several); the axis of the results is each block's last.
    """
    lanes = machine.lanes(info.dtype)
    position, axis = _reduced_last(info)
    assert axis.size is not None
    vectors = next(n for n in (ACCUMULATORS, 2, 1) if axis.size % (n * lanes) == 0)
    _, part = sch.split(sch.get_loops(info.rv)[position], [None, vectors * lanes])
    spatial = sum(axis.kind == facts.SPATIAL for axis in info.axes)
    made = [sch.rfactor(part, spatial)]
    if vectors > 1:
        place = sum(axis.kind == facts.SPATIAL for axis in info.axes[:position])  # other reduced axes no longer exist
        _, lane = sch.split(sch.get_loops(info.rv)[place], [None, lanes])
        made.append(sch.rfactor(lane, spatial))
    return made


def _final_sum(sch: Schedule, block: SBlockRV, shared: int) -> LoopRV:
    """Move the one reduced axis of a moved block that combines partial results last; return its loop."""
    loops = sch.get_loops(block)[shared:]
    kinds = [int(axis.iter_type) for axis in sch.get(block).iter_vars]
    reduced = next(loop for loop, kind in zip(loops, kinds, strict=True) if kind == facts.REDUCE)
    sch.reorder(*(loop for loop, kind in zip(loops, kinds, strict=True) if kind == facts.SPATIAL), reduced)
    return reduced


def _vector_partial(sch: Schedule, block: SBlockRV, shared: int, lanes: int) -> LoopRV:
    """Vectorize the partial results of a moved `rfactor` block; return its first reduction loop."""
    loops = sch.get_loops(block)[shared:]
    kinds = [int(axis.iter_type) for axis in sch.get(block).iter_vars]
    stores = sch.get(block).writes[0].region
    lane_var = stores[len(stores) - 1].min
    lane = next(i for i, axis in enumerate(sch.get(block).iter_vars) if axis.var.same_as(lane_var))
    spatial = [loop for i, loop in enumerate(loops) if kinds[i] == facts.SPATIAL and i != lane]
    reduced = [loop for i, loop in enumerate(loops) if kinds[i] == facts.REDUCE]
    vectors, vector = sch.split(loops[lane], [None, lanes])
    sch.reorder(*spatial, *reduced, vectors, vector)
    sch.unroll(vectors)
    sch.vectorize(vector)
    return reduced[0]


def _vector_column(sch: Schedule, info: BlockInfo, shared: int, machine: Machine) -> LoopRV:
    """Vectorize a reduction along its last spatial axis below the row; return its first reduction loop."""
    loops = sch.get_loops(info.rv)[shared:]
    spatial = [i for i, axis in enumerate(info.axes) if axis.kind == facts.SPATIAL]
    reduced = [loops[i] for i, axis in enumerate(info.axes) if axis.kind == facts.REDUCE]
    below = [i for i in spatial if i >= shared and not facts.is_unit(info.axes[i])]
    if not below:
        sch.reorder(*[loops[i] for i in spatial], *reduced)
        return reduced[0]
    last = below[-1]
    sch.reorder(*[loops[i] for i in spatial if i != last], loops[last], *reduced)
    _split_vector(sch, loops[last], info.axes[last].size, machine.lanes(info.dtype), reduced)
    return reduced[0]


def _vector_map(sch: Schedule, info: BlockInfo, shared: int, machine: Machine) -> None:
    """Vectorize an injective block along the contiguous axis below the row."""
    loops = sch.get_loops(info.rv)
    loops, axes = loops[len(loops) - len(info.axes) + shared :], info.axes[shared:]
    if not axes:
        return
    start = facts.trailing_group(axes)
    inner = steps.fuse_all(sch, loops[start:])
    size = facts.product(axis.size for axis in axes[start:])
    if not any(axis.branches for axis in axes[start:]):  # with branches, LLVM vectorizes the plain loop
        _split_vector(sch, inner, size, machine.lanes(info.dtype), [])


def _split_vector(sch: Schedule, loop: LoopRV, size: int | None, lanes: int, between: list[LoopRV]) -> None:
    if size == 1:
        return
    if size is not None and size <= lanes:
        if between:
            sch.reorder(*between, loop)
        sch.vectorize(loop)
        return
    vectors, vector = sch.split(loop, [None, lanes])
    sch.reorder(vectors, *between, vector)
    sch.vectorize(vector)
    if size is None or size % lanes:
        sch.annotate(vectors, PEEL, 1)
