"""The CPU template of `conv.conv`: accumulators in registers over the whole reduction, then the epilogue."""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from graphopt.targets.tvm.cpu import generic as generic_cpu
from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common import steps
from graphopt.targets.tvm.machine import Machine
from graphopt.targets.tvm.tir_passes.exact import keep_exact


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc | None:
    """Schedule a function whose anchor is a convolution of this family; None for any other function."""
    # The template is correct by construction, but for symbolic extents TVM cannot prove that a tile's region covers
    # what the epilogue reads (it needs ceil(w / 64) * 64 >= w), and would reject it.
    sch = Schedule(tvm.IRModule({"main": func}), enable_check=not facts.is_symbolic(func))
    anchor = facts.find_anchor(sch, ("conv_channels", "conv_rows"))
    if anchor is None:
        return None
    final = steps.inline_around(sch, anchor, keep=("pad",))
    if (rank := _crossed(sch, anchor, final)) > 1:
        sch, anchor, final = _flatten(sch, anchor, final, rank)
    _tile(sch, anchor, final)
    return steps.schedule_others(sch, [anchor, final], machine, generic_cpu.schedule_block).mod["main"]


def _tile(sch: Schedule, anchor: SBlockRV, final: SBlockRV) -> None:
    kernel = str(sch.get(anchor).annotations["kernel"])
    tile, channel_tile, lanes = (int(v) for v in sch.get(anchor).annotations["tile"])

    reduced = sum(int(axis.iter_type) == facts.REDUCE for axis in sch.get(anchor).iter_vars)

    n, c, *rows, flat = sch.get_loops(final)
    step = tile * (lanes if kernel == "conv_rows" else 1)
    block = channel_tile * (1 if kernel == "conv_rows" else lanes)
    width = sch.get(flat).extent
    c_out, c_in = sch.split(c, [None, block])
    x_out, x_in = sch.split(flat, [None, step])
    # The operand with the smaller part in a tile is swept innermost, so that the other one stays in cache.
    order = [n, *rows, x_out, c_out] if step > block else [n, c_out, *rows, x_out]
    sch.reorder(*order, c_in, x_in)
    size = facts.extent(width)
    if kernel == "conv_rows" and size is not None and size % step == 0:
        sch.set_scope(anchor, 0, "local")
    else:
        steps.copy_tile(sch, anchor, order[-1], lanes)
    sch.compute_at(anchor, order[-1], preserve_unit_loops=True)
    first = _inner(sch, anchor, kernel, reduced, lanes)
    steps.parallelize(sch, order, [facts.extent(sch.get(loop).extent) for loop in order])
    if kernel == "conv_rows":
        steps.vectorize_store(sch, [c_in], x_in, lanes, step, width)
    elif size is not None and size % step == 0:
        sch.vectorize(x_in)
    init = sch.get_loops(sch.decompose_reduction(anchor, first))
    sch.vectorize(init[-1])
    sch.unroll(init[-2])
    sch.unroll(init[-3])


def _crossed(sch: Schedule, anchor: SBlockRV, final: SBlockRV) -> int:
    """Return how many of the last axes of the epilogue a tile covers: all spatial ones of a flat convolution, or 1."""
    axes = facts.axes_of(sch, anchor)
    lead = sum(axis.kind == facts.SPATIAL for axis in axes) - 5
    return len(sch.get_loops(final)) - 2 - lead


def _flatten(sch: Schedule, anchor: SBlockRV, final: SBlockRV, rank: int) -> tuple[Schedule, SBlockRV, SBlockRV]:
    """Fuse the last `rank` axes of the epilogue into one, and make its addresses linear in it."""
    axes = sch.get(final).iter_vars
    sizes = [axis.dom.extent for axis in axes][-rank:]

    def index_map(*index: tirx.Var) -> list[tirx.PrimExpr]:
        position = index[-rank]
        for size, next_index in zip(sizes[1:], index[-rank + 1 :], strict=True):
            position = position * size + next_index
        return [*index[:-rank], position]

    names = [str(sch.get(block).name_hint) for block in (anchor, final)]
    sch.transform_block_layout(final, tirx.IndexMap.from_func(index_map, ndim=len(axes), index_dtype="int64"))
    # After simplification, p // w * w + p % w is p, and the region that a tile reads is exact.
    mod = tvm.IRModule({name: func.with_body(keep_exact(func.body)) for name, func in sch.mod.functions_items()})
    sch = Schedule(s_tir.transform.StmtSimplify()(mod))
    return sch, sch.get_sblock(names[0]), sch.get_sblock(names[1])


def _inner(sch: Schedule, anchor: SBlockRV, kernel: str, reduced: int, lanes: int) -> LoopRV:
    """Order the anchor's loops: reduction outside, register tile inside. Return the first reduction loop."""
    loops = sch.get_loops(anchor)
    reduction = loops[len(loops) - reduced :]
    spatial = loops[: len(loops) - reduced]
    if kernel == "conv_channels":
        block, x, lane = spatial[-3 - _lead_below(sch, anchor, reduced)], spatial[-2], spatial[-1]
        sch.reorder(*reduction, block, x, lane)
        sch.unroll(block)
        sch.unroll(x)
    else:
        channel, x = spatial[-2], spatial[-1]
        vectors, lane = sch.split(x, [None, lanes])
        sch.reorder(*reduction, channel, vectors, lane)
        sch.unroll(channel)
        sch.unroll(vectors)
    sch.vectorize(lane)
    return reduction[0]


def _lead_below(sch: Schedule, anchor: SBlockRV, reduced: int) -> int:
    """Return the number of unit loops (rows, tile) between the channel block and the register tile."""
    return len(sch.get(anchor).iter_vars) - reduced - 4
