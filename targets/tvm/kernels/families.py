"""The registry of kernel families: one line for each."""

from __future__ import annotations

from graphopt.targets.tvm.kernels.conv.family import PlainConv
from graphopt.targets.tvm.kernels.depthwise.family import Depthwise
from graphopt.targets.tvm.kernels.direct.family import Direct
from graphopt.targets.tvm.kernels.family import Family, Workload
from graphopt.targets.tvm.kernels.matmul.family import Matmul
from graphopt.targets.tvm.kernels.nbits.family import NBits
from graphopt.targets.tvm.kernels.winograd.family import Winograd
from graphopt.targets.tvm.machine import Machine

FAMILIES: tuple[Family, ...] = (
    Winograd(),
    Direct(),
    Depthwise(),
    PlainConv(),
    Matmul(),
    NBits(),
)
"""The families in the order of preference; the last one for a workload has the plainest definition."""


def families_for(
    workload: Workload, machine: Machine, device: str = "cpu", families: tuple[Family, ...] = FAMILIES
) -> list[Family]:
    """Return the families that support a workload on a machine and have a schedule for the kind of device, in order."""
    return [family for family in families if device in family.schedules and family.supports(workload, machine)]
