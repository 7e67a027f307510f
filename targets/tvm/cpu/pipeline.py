"""From a lowered Relax module to fused, scheduled PrimFuncs.

`fuse(mod, target)` legalizes what is still a high-level Relax operator, fuses operators into PrimFuncs, and schedules
them. Operators may come as `relax.op` calls or as `call_tir` of TE computes (`bb.emit_te`); a kernel family's own
computes (`kernels/`) carry their fusion pattern and anchor with them.
"""

from __future__ import annotations

import tvm
from tvm import relax

from graphopt.targets.tvm.cpu.schedule import schedule
from graphopt.targets.tvm.lowering.provenance import fuse_operators
from graphopt.targets.tvm.machine import Machine, machine_of
from graphopt.targets.tvm.relax_passes.concat import place_pieces
from graphopt.targets.tvm.relax_passes.order import order_symbols
from graphopt.targets.tvm.relax_passes.overwrite import note_overwritable, overwrite
from graphopt.targets.tvm.relax_passes.patterns import relax_broadcasts
from graphopt.targets.tvm.relax_passes.results import copy_constant_results
from graphopt.targets.tvm.tir_passes.work import measure_bytes
from graphopt.targets.tvm.tuning.searched import Searched


def fuse(
    mod: tvm.IRModule, target: tvm.target.Target, machine: Machine | None = None, searched: Searched | None = None
) -> tvm.IRModule:
    """Legalize, fuse and schedule `mod` for `target`; `main` keeps its signature.

    `machine` says more of the target than TVM's description, such as the caches. `searched` holds schedules for
    functions that no kernel family covers.
    """
    machine = machine or machine_of(target)
    mod = fuse_only(mod, target, machine)
    with target:
        return overwrite(schedule(mod, machine, searched))


def fuse_only(mod: tvm.IRModule, target: tvm.target.Target, machine: Machine) -> tvm.IRModule:
    """What `fuse` does before it schedules."""
    with target:
        return tvm.transform.Sequential(
            [
                relax.backend.DispatchSampling(),
                relax.backend.DispatchSortScan(),
                relax.transform.LegalizeOps(),
                relax.transform.AnnotateTIROpPattern(),
                relax.transform.FoldConstant(),
                copy_constant_results,
                relax_broadcasts,
                fuse_operators,
                relax.transform.FuseTIR(),
                order_symbols,
                measure_bytes,
                place_pieces,
                note_overwritable,
                relax.transform.DeadCodeElimination(),
                # Recognizes reshapes by their blocks, so it has to come before they are scheduled.
                relax.transform.RewriteDataflowReshape(),
            ]
        )(mod)
