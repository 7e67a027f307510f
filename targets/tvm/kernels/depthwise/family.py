"""Depthwise convolution as a kernel family."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from tvm import te

from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.common.dot import INTEGER
from graphopt.targets.tvm.kernels.depthwise import compute, cpu
from graphopt.targets.tvm.kernels.depthwise.plan import DepthwisePlan, candidates, plan_depthwise
from graphopt.targets.tvm.kernels.family import FLOAT32, Family, Workload
from graphopt.targets.tvm.kernels.versions import VERSIONS
from graphopt.targets.tvm.machine import Machine


class Depthwise(Family):
    """Depthwise convolution: each channel with its own filter."""

    name = "conv_depthwise"
    version = VERSIONS[name]
    schedules = {"cpu": cpu.schedule}

    def supports(self, workload: Workload, machine: Machine) -> bool:
        return isinstance(workload, ConvWorkload) and workload.dtypes in (FLOAT32, INTEGER) and workload.is_depthwise

    def default(self, workload: ConvWorkload, machine: Machine) -> DepthwisePlan:
        return plan_depthwise(workload, machine)

    def candidates(self, workload: ConvWorkload, machine: Machine) -> list[DepthwisePlan]:
        return candidates(workload, machine)

    def packed_shape(self, workload: ConvWorkload, plan: DepthwisePlan) -> tuple[int, ...]:
        return (-(-workload.spec.out_channels // workload.lanes), workload.geometry.taps, workload.lanes)

    def layout(self, workload: ConvWorkload, plan: DepthwisePlan) -> tuple[Hashable, ...]:
        return (workload.lanes,)

    def pack(self, weight: np.ndarray, workload: ConvWorkload, plan: DepthwisePlan) -> np.ndarray:
        return compute.pack_weight(weight, workload)

    def compute(
        self,
        data: te.Tensor,
        weight: te.Tensor,
        workload: ConvWorkload,
        plan: DepthwisePlan,
        out_space: Sequence[Any] | None = None,
    ) -> te.Tensor:
        return compute.depthwise(data, weight, workload, plan)
