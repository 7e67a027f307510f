"""Matmul by a matrix of few bits as a kernel family."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from tvm import te

from graphopt.targets.tvm.kernels.family import Family, Workload
from graphopt.targets.tvm.kernels.nbits import compute, cpu
from graphopt.targets.tvm.kernels.nbits.plan import DTYPES, MIDDLE, Layout, NBitsPlan, NBitsWorkload, plan_nbits
from graphopt.targets.tvm.kernels.versions import VERSIONS
from graphopt.targets.tvm.machine import Machine


class NBits(Family):
    """Matmul by integers of 2, 4 or 8 bits with a scale for each group, which become floats in registers."""

    name = "matmul_nbits"
    version = VERSIONS[name]
    schedules = {"cpu": cpu.schedule}

    def supports(self, workload: Workload, machine: Machine) -> bool:
        return isinstance(workload, NBitsWorkload) and workload.dtypes == DTYPES and workload.bits in MIDDLE

    def default(self, workload: NBitsWorkload, machine: Machine) -> NBitsPlan:
        return plan_nbits(workload, machine)

    def candidates(self, workload: NBitsWorkload, machine: Machine) -> list[NBitsPlan]:
        return [plan_nbits(workload, machine)]

    def packed_shape(self, workload: NBitsWorkload, plan: NBitsPlan) -> tuple[int, ...]:
        return (Layout(workload, plan).size,)

    def layout(self, workload: NBitsWorkload, plan: NBitsPlan) -> tuple[Hashable, ...]:
        return (plan.width,)

    def pack(self, weight: np.ndarray, workload: NBitsWorkload, plan: NBitsPlan) -> np.ndarray:
        return compute.pack(weight, Layout(workload, plan))

    def compute(
        self,
        data: te.Tensor,
        weight: te.Tensor,
        workload: NBitsWorkload,
        plan: NBitsPlan,
        out_space: Sequence[Any] | None = None,
    ) -> te.Tensor:
        return compute.matmul(data, weight, workload, plan)
