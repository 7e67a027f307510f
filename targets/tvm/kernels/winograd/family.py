"""Winograd convolution as a kernel family."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from tvm import te

from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.family import FLOAT32, Family, Workload
from graphopt.targets.tvm.kernels.versions import VERSIONS
from graphopt.targets.tvm.kernels.winograd import compute, cpu
from graphopt.targets.tvm.kernels.winograd.plan import WinogradPlan, applies, candidates, cycles, worth
from graphopt.targets.tvm.machine import Machine


class Winograd(Family):
    """Convolution with a 3x3 kernel and fewer multiplications, at some cost in accuracy (see `winograd.compute`)."""

    name = "conv_winograd"
    version = VERSIONS[name]
    schedules = {"cpu": cpu.schedule}

    def supports(self, workload: Workload, machine: Machine) -> bool:
        return isinstance(workload, ConvWorkload) and workload.dtypes == FLOAT32 and applies(workload)

    def default(self, workload: ConvWorkload, machine: Machine) -> WinogradPlan | None:
        return worth(workload, machine)

    def candidates(self, workload: ConvWorkload, machine: Machine) -> list[WinogradPlan]:
        return candidates(workload, machine)

    def cost(self, workload: ConvWorkload, plan: WinogradPlan, machine: Machine) -> float:
        return cycles(workload, plan, machine)

    def packed_shape(self, workload: ConvWorkload, plan: WinogradPlan) -> tuple[int, ...]:
        return compute.packed_shape(workload, plan)

    def layout(self, workload: ConvWorkload, plan: WinogradPlan) -> tuple[Hashable, ...]:
        return workload.lanes, plan.outputs, plan.vectors

    def pack(self, weight: np.ndarray, workload: ConvWorkload, plan: WinogradPlan) -> np.ndarray:
        return compute.pack_weight(weight, workload, plan)

    def compute(
        self,
        data: te.Tensor,
        weight: te.Tensor,
        workload: ConvWorkload,
        plan: WinogradPlan,
        out_space: Sequence[Any] | None = None,
    ) -> te.Tensor:
        return compute.winograd(data, weight, workload, plan)
