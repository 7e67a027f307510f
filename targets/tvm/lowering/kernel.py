"""Emission of the kernels of families, the only way from a converter to a family's kernel."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.targets.tvm.kernels.common.computes import OUT_EWISE_FUSABLE
from graphopt.targets.tvm.kernels.family import Family, Plan, Workload
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.packing import packed_weight


def kernel(
    ctx: Context,
    workload: Workload,
    chosen: tuple[Family, Plan],
    data: Operand,
    weight: Operand,
    *,
    name: str,
    out_space: Sequence[Dim] | None = None,
) -> Operand:
    """Emit the family and plan that `ctx.plans` chose for a workload; return the result.

    `weight` is in ONNX's layout; it is a constant if the workload `is_packed`. `out_space`: see `Family.compute`.
    """
    family, plan = chosen
    if workload.is_packed:
        weight = packed_weight(weight, family, workload, plan)
    return ctx.te(
        lambda x, w: family.compute(x, w, workload, plan, out_space),
        data,
        weight,
        name=name,
        attributes={"op_pattern": OUT_EWISE_FUSABLE},
    )
