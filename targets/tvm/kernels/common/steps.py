"""Steps of schedules that several rules share, in schedule primitives."""

from __future__ import annotations

from collections.abc import Callable

import tvm_ffi
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common.blocks import BlockInfo
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.tir_passes.peel import PEEL

PARALLEL_PIECES = 64
"""The desired iterations of a parallel loop, so that the static split over any usual number of cores is even."""
FEW_PIECES = 8
"""The number of iterations from which static loops are preferred to a symbolic loop for running in parallel."""


def fuse_all(sch: Schedule, loops: list[LoopRV]) -> LoopRV:
    """Fuse neighbouring loops into one (a single loop is returned as it is)."""
    return loops[0] if len(loops) == 1 else sch.fuse(*loops)


def inline_around(sch: Schedule, anchor: SBlockRV, keep: tuple[str, ...]) -> SBlockRV:
    """Inline the injective blocks around an anchor, except stages named in `keep`; return the block to tile.

    That is the last block of the epilogue if it has one element for each element of the anchor's own output block;
    otherwise (a consumer that broadcasts, or changes the order) the anchor's output block itself.
    """
    own = sch.get_consumers(anchor)[0]
    shape = [axis.dom.extent for axis in sch.get(own).iter_vars]
    after = _followers(sch, own)
    chain = [own, *after]
    final = own
    if len(after) == len(facts.child_blocks(sch)) - facts.index_of(sch, own) - 1:
        for block in after:
            axes = sch.get(block).iter_vars
            same = len(axes) == len(shape) and all(
                int(a.iter_type) == facts.SPATIAL and tvm_ffi.structural_equal(a.dom.extent, s)
                for a, s in zip(axes, shape, strict=True)
            )
            if not same:
                break
            final = block
    for block in chain[: next(i for i, b in enumerate(chain) if b is final)]:
        sch.compute_inline(block)
    for block in facts.child_blocks(sch):
        name = sch.get(block).name_hint
        info = facts.describe(sch, block)
        before = facts.index_of(sch, block) < facts.index_of(sch, anchor)
        if before and name.rstrip("_0123456789") not in keep and info is not None and not info.is_reduction:
            sch.compute_inline(block)
    return final


def _followers(sch: Schedule, block: SBlockRV) -> list[SBlockRV]:
    """Return the chain of blocks that each are the only consumer of the previous one."""
    chain: list[SBlockRV] = []
    while len(readers := sch.get_consumers(block)) == 1:
        block = readers[0]
        chain.append(block)
    return chain


def parallelize(sch: Schedule, loops: list[LoopRV], sizes: list[int | None]) -> None:
    """Run a suitable one of these perfectly nested data-parallel loops (outermost first) in parallel.

    Static loops are fused until there are enough pieces. Symbolic ones are never fused: static loops with some pieces
    are preferred, else the last symbolic loop (the first is usually a batch of one).
    """
    if not loops:
        return
    if any(size is None for size in sizes):
        static = [loop for loop, size in zip(loops, sizes, strict=True) if size is not None]
        pieces = facts.product(size for size in sizes if size is not None) or 1
        if pieces >= FEW_PIECES:
            rest = [loop for loop, size in zip(loops, sizes, strict=True) if size is None]
            sch.reorder(*static, *rest)
            loops, sizes = static, [size for size in sizes if size is not None]
        else:
            chosen = max(i for i, size in enumerate(sizes) if size is None)
            sch.reorder(loops[chosen], *loops[:chosen], *loops[chosen + 1 :])
            sch.parallel(loops[chosen])
            return
    count, taken = 1, 0
    while taken < len(loops) and count < PARALLEL_PIECES:
        count *= sizes[taken] or 1
        taken += 1
    sch.parallel(fuse_all(sch, loops[:taken]))


def schedule_others(
    sch: Schedule,
    done: list[SBlockRV],
    machine: Machine,
    schedule_block: Callable[[Schedule, BlockInfo, Machine], Schedule],
) -> Schedule:
    """Schedule the root-level blocks that a template has not touched (stages before and after its tile)."""
    names = {str(sch.get(block).name_hint) for block in done}
    for block in facts.child_blocks(sch):
        info = facts.describe(sch, block) if str(sch.get(block).name_hint) not in names else None
        if info is not None and info.is_plain:
            sch = schedule_block(sch, info, machine)
    return sch


def vectorize_store(
    sch: Schedule, before: list[LoopRV], inner: LoopRV, lanes: int, step: int, width: tirx.PrimExpr
) -> None:
    """Vectorize the write of a register tile along rows of `width` elements; `before` are its other loops.

    Full tiles are unrolled. The last tile of a row that is not a multiple of `step` has its last partial vector peeled
    off.
    """
    size = facts.extent(width)
    vectors, lane = sch.split(inner, [None, lanes])
    sch.vectorize(lane)
    if size is not None and size % step == 0:
        for loop in (*before, vectors):
            sch.unroll(loop)
    else:
        sch.annotate(vectors, PEEL, 1)


def copy_tile(sch: Schedule, anchor: SBlockRV, at: LoopRV, lanes: int) -> None:
    """Move the anchor's finished tile, computed at loop `at`, to a buffer that the epilogue reads.

    An epilogue that is not unrolled, like that of a partial tile, reads at variable addresses. If it read the
    accumulators themselves, LLVM would have to keep them in memory and store each at every step of the reduction.
    """
    copy = sch.cache_write(anchor, 0, "local")
    sch.set_scope(copy, 0, "global")  # another scope than that of the accumulators, or TVM merges the two
    sch.compute_at(copy, at, preserve_unit_loops=True)
    *outer, last = sch.get_loops(copy)[-len(sch.get(copy).iter_vars) :]
    vectors, lane = sch.split(last, [None, lanes])
    sch.vectorize(lane)
    for loop in (*outer, vectors):
        if facts.extent(sch.get(loop).extent) not in (None, 1):
            sch.unroll(loop)
