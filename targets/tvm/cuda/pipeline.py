"""Fusion and schedules for GPUs: TVM's own rules for matrix products, reductions and everything else."""

from __future__ import annotations

import tvm
from tvm import relax, tirx
from tvm.s_tir import dlight

from graphopt.errors import UnsupportedError
from graphopt.targets.tvm.lowering.provenance import fuse_operators
from graphopt.targets.tvm.relax_passes.order import order_symbols
from graphopt.targets.tvm.tir_passes.work import measure_bytes


def fuse(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Legalize, fuse and schedule `mod` for a GPU; `main` keeps its signature.

    Raises UnsupportedError when a function cannot be spread over GPU threads.
    """
    with target:
        scheduled = tvm.transform.Sequential(
            [
                relax.backend.DispatchSampling(),
                relax.backend.DispatchSortScan(),
                relax.transform.LegalizeOps(),
                relax.transform.AnnotateTIROpPattern(),
                relax.transform.FoldConstant(),
                fuse_operators,
                relax.transform.FuseTIR(),
                order_symbols,
                measure_bytes,
                relax.transform.DeadCodeElimination(),
                relax.transform.RewriteDataflowReshape(),
                dlight.ApplyDefaultSchedule(
                    dlight.gpu.Matmul(),
                    dlight.gpu.GEMV(),
                    dlight.gpu.Reduction(),
                    dlight.gpu.GeneralReduction(),
                    dlight.gpu.Fallback(),
                ),
            ]
        )(mod)
    if serial := sorted(name.name_hint for name, func in scheduled.functions_items() if _is_serial(func)):
        raise UnsupportedError(
            f"these parts of the model cannot run on a GPU yet: {', '.join(serial)}",
            remedy="compile the model for a CPU target",
        )
    return scheduled


def _is_serial(func: tvm.ir.BaseFunc) -> bool:
    """Whether no rule took the function: its loops would run on the host, and touch memory of the GPU."""
    return isinstance(func, tirx.PrimFunc) and not (func.attrs and func.attrs.get("tirx.is_scheduled"))
