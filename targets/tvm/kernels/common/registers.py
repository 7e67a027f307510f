"""Keeping of the accumulators of a register tile out of memory."""

from __future__ import annotations

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from graphopt.targets.tvm.kernels.common import blocks as facts


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
