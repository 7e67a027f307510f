"""The CPU template of `matmul`: a register tile of rows by column panels, filled over the whole of K."""

from __future__ import annotations

import tvm
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV

from graphopt.targets.tvm.kernels import blocks as facts
from graphopt.targets.tvm.kernels import generic_cpu
from graphopt.targets.tvm.kernels.registers import copy_tile
from graphopt.targets.tvm.machine import Machine


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc | None:
    """Schedule a function whose anchor is a matrix product of this family; None for any other function."""
    # As for convolutions, TVM cannot prove symbolic regions to be covered.
    sch = Schedule(tvm.IRModule({"main": func}), enable_check=not facts.is_symbolic(func))
    anchor = facts.find_anchor(sch, ("matmul",))
    if anchor is None:
        return None
    final = facts.inline_around(sch, anchor, keep=("pack",))
    _tile(sch, anchor, final, machine)
    return facts.schedule_others(sch, [anchor, final], machine, generic_cpu.schedule_block).mod["main"]


def _tile(sch: Schedule, anchor: SBlockRV, final: SBlockRV, machine: Machine) -> None:
    rows, panels, lanes = (int(v) for v in sch.get(anchor).annotations["tile"])
    *batch, m, n = sch.get_loops(final)
    width = sch.get(n).extent
    size, height = facts.extent(width), facts.extent(sch.get(m).extent)
    work = facts.product(axis.size for axis in facts.axes_of(sch, anchor))
    m_out, m_in = sch.split(m, [None, rows])
    n_out, n_in = sch.split(n, [None, panels * lanes])
    sch.reorder(*batch, n_out, m_out, m_in, n_in)
    if size is not None and size % (panels * lanes) == 0 and height is not None and height % rows == 0:
        sch.set_scope(anchor, 0, "local")
    else:
        copy_tile(sch, anchor, m_out, lanes)
    sch.compute_at(anchor, m_out, preserve_unit_loops=True)
    panel, i, lane, k = sch.get_loops(anchor)[-4:]
    sch.reorder(k, panel, i, lane)
    sch.vectorize(lane)
    sch.unroll(i)
    sch.unroll(panel)
    if work is None or 2 * work >= facts.SERIAL_WORK:
        outer = [*batch, n_out, m_out]
        facts.parallelize(sch, outer, [facts.extent(sch.get(loop).extent) for loop in outer])
    facts.vectorize_store(sch, [m_in], n_in, lanes, panels * lanes, width)
    init = sch.get_loops(sch.decompose_reduction(anchor, k))
    sch.vectorize(init[-1])
    sch.unroll(init[-2])
    sch.unroll(init[-3])
