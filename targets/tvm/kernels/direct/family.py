"""Direct convolution as a kernel family."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from tvm import te

from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.common.dot import BFLOAT16, INTEGERS
from graphopt.targets.tvm.kernels.direct import compute, cpu
from graphopt.targets.tvm.kernels.direct.plan import DirectPlan, candidates, cycles, packed_size, plan_direct
from graphopt.targets.tvm.kernels.family import FLOAT32, Family, Workload
from graphopt.targets.tvm.kernels.versions import VERSIONS
from graphopt.targets.tvm.machine import Machine


class Direct(Family):
    """Direct convolution: a register tile summed over channels and taps."""

    name = "conv_direct"
    version = VERSIONS[name]
    schedules = {"cpu": cpu.schedule}

    def supports(self, workload: Workload, machine: Machine) -> bool:
        if not isinstance(workload, ConvWorkload) or workload.is_depthwise:
            return False
        if workload.dtypes == BFLOAT16:
            return workload.blocked and not workload.is_banded
        return workload.dtypes == FLOAT32 or (workload.dtypes in INTEGERS and workload.blocked)

    def default(self, workload: ConvWorkload, machine: Machine) -> DirectPlan:
        return plan_direct(workload, machine)

    def candidates(self, workload: ConvWorkload, machine: Machine) -> list[DirectPlan]:
        return candidates(workload, machine)

    def numbers(self, plan: DirectPlan) -> tuple[int, ...]:
        return plan.columns, plan.vectors, plan.bands, plan.chunk

    def cost(self, workload: ConvWorkload, plan: DirectPlan, machine: Machine) -> float:
        return cycles(workload, plan, machine)

    def packed_shape(self, workload: ConvWorkload, plan: DirectPlan) -> tuple[int, ...]:
        return (packed_size(workload, plan),)

    def layout(self, workload: ConvWorkload, plan: DirectPlan) -> tuple[Hashable, ...]:
        return workload.lanes, workload.step, workload.spec.groups, workload.is_banded, plan.vectors, plan.way

    def pack(self, weight: np.ndarray, workload: ConvWorkload, plan: DirectPlan) -> np.ndarray:
        return compute.pack_weight(weight, workload, plan)

    def compute(
        self,
        data: te.Tensor,
        weight: te.Tensor,
        workload: ConvWorkload,
        plan: DirectPlan,
        out_space: Sequence[Any] | None = None,
    ) -> te.Tensor:
        return compute.direct(data, weight, workload, plan)
