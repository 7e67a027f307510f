"""Packing of constant weights in the layout in which a kernel reads them."""

from __future__ import annotations

from graphopt.targets.tvm.kernels.family import Family, Plan, Workload
from graphopt.targets.tvm.lowering.operand import Operand


def packed_weight(weight: Operand, family: Family, workload: Workload, plan: Plan) -> Operand:
    """Return a constant weight as a kernel of `family` reads it.

    It is packed when its elements are needed, and is the same constant for all kernels that read the same layout.
    """
    return weight.derived(
        family.packed_shape(workload, plan),
        (family.name, *family.layout(workload, plan)),
        lambda array: family.pack(array, workload, plan),
        lambda array: family.parts(array, workload, plan),
    )
