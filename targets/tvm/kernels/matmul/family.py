"""Matmul as a kernel family."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from tvm import te

from graphopt.targets.tvm.kernels.common.dot import BFLOAT16, INTEGER, INTEGERS
from graphopt.targets.tvm.kernels.family import Dtypes, Family, Workload
from graphopt.targets.tvm.kernels.matmul import compute, cpu
from graphopt.targets.tvm.kernels.matmul.plan import MatmulPlan, MatmulWorkload, candidates, cycles
from graphopt.targets.tvm.kernels.versions import VERSIONS
from graphopt.targets.tvm.machine import Machine

NARROW = tuple(Dtypes("float32", kind, "float32", "float32") for kind in ("float16", "bfloat16"))
"""Floats by a matrix of 16-bit floats, which is converted where it is read."""


class Matmul(Family):
    """A matmul with a matrix packed in panels; one that is only known at run time is planned, but not measured."""

    name = "matmul"
    version = VERSIONS[name]
    schedules = {"cpu": cpu.schedule}

    def supports(self, workload: Workload, machine: Machine) -> bool:
        if not isinstance(workload, MatmulWorkload) or workload.k is None:
            return False
        if workload.dtypes in INTEGERS:
            return (workload.packed or workload.dtypes == INTEGER) and not workload.transpose_a
        if workload.dtypes == BFLOAT16:
            return workload.packed and not workload.transpose_a
        if workload.dtypes in NARROW:
            # Processors without AVX2 have no conversions of float16.
            return workload.packed and (workload.dtypes.weight != "float16" or _converts_halves(machine))
        return workload.dtypes.is_uniform and workload.dtypes.data in ("float32", "float16")

    def default(self, workload: MatmulWorkload, machine: Machine) -> MatmulPlan:
        return MatmulPlan.default(workload, machine)

    def candidates(self, workload: MatmulWorkload, machine: Machine) -> list[MatmulPlan]:
        return list(candidates(workload, machine))

    def numbers(self, plan: MatmulPlan) -> tuple[int, ...]:
        return (plan.lanes, plan.rows, plan.vectors, plan.k_block, plan.m_block)

    def cost(self, workload: MatmulWorkload, plan: MatmulPlan, machine: Machine) -> float:
        return cycles(plan)

    def packed_shape(self, workload: MatmulWorkload, plan: MatmulPlan) -> tuple[int, ...]:
        return plan.packed_shape

    def layout(self, workload: MatmulWorkload, plan: MatmulPlan) -> tuple[Hashable, ...]:
        return plan.width, plan.step

    def pack(self, weight: np.ndarray, workload: MatmulWorkload, plan: MatmulPlan) -> np.ndarray:
        return compute.pack_matrix(weight, plan)

    def parts(self, weight: np.ndarray, workload: MatmulWorkload, plan: MatmulPlan) -> Iterator[np.ndarray]:
        return compute.panels(weight, plan)

    def compute(
        self,
        data: te.Tensor,
        weight: te.Tensor,
        workload: MatmulWorkload,
        plan: MatmulPlan,
        out_space: Sequence[Any] | None = None,
    ) -> te.Tensor:
        if workload.is_packed:
            return compute.matmul_packed(data, weight, plan)
        return compute.matmul(data, weight, plan)


def _converts_halves(machine: Machine) -> bool:
    """Return whether vectors of float16 are converted by an instruction: by all ARM processors, and with AVX2."""
    return "avx2" in machine.instructions or "sse2" not in machine.instructions
