"""Convolution in plain layout as a kernel family."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from tvm import te

from graphopt.targets.tvm.kernels.conv import compute, cpu
from graphopt.targets.tvm.kernels.conv.plan import ConvPlan, PlainConvWorkload, candidates, cost
from graphopt.targets.tvm.kernels.family import Family, Workload
from graphopt.targets.tvm.kernels.versions import VERSIONS
from graphopt.targets.tvm.machine import Machine


class PlainConv(Family):
    """Convolution of values in plain layout, of open sizes and of 16-bit floats too."""

    name = "conv_plain"
    version = VERSIONS[name]
    schedules = {"cpu": cpu.schedule}

    def supports(self, workload: Workload, machine: Machine) -> bool:
        return (
            isinstance(workload, PlainConvWorkload)
            and workload.dtypes.is_uniform
            and workload.dtypes.data in ("float32", "float16")
        )

    def default(self, workload: PlainConvWorkload, machine: Machine) -> ConvPlan:
        return candidates(workload, machine)[0]

    def candidates(self, workload: PlainConvWorkload, machine: Machine) -> list[ConvPlan]:
        return candidates(workload, machine)

    def numbers(self, plan: ConvPlan) -> tuple[int, ...]:
        return (int(plan.method == "rows"), plan.lanes, plan.tile, plan.channel_tile)

    def cost(self, workload: PlainConvWorkload, plan: ConvPlan, machine: Machine) -> float:
        return cost(workload, plan, machine)

    def packed_shape(self, workload: PlainConvWorkload, plan: ConvPlan) -> tuple[int, ...]:
        return plan.packed_shape

    def layout(self, workload: PlainConvWorkload, plan: ConvPlan) -> tuple[Hashable, ...]:
        return plan.channel_block, plan.packed_shape

    def pack(self, weight: np.ndarray, workload: PlainConvWorkload, plan: ConvPlan) -> np.ndarray:
        return compute.pack_weight(weight, plan)

    def compute(
        self,
        data: te.Tensor,
        weight: te.Tensor,
        workload: PlainConvWorkload,
        plan: ConvPlan,
        out_space: Sequence[Any] | None = None,
    ) -> te.Tensor:
        return compute.conv(data, weight, plan, out_space)
