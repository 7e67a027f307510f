"""The kernel families there are: the one line that registers each."""

from __future__ import annotations

from graphopt.targets.tvm.kernels.conv.family import PlainConv
from graphopt.targets.tvm.kernels.depthwise.family import Depthwise
from graphopt.targets.tvm.kernels.direct.family import Direct
from graphopt.targets.tvm.kernels.family import Family, Workload
from graphopt.targets.tvm.kernels.matmul.family import Matmul
from graphopt.targets.tvm.kernels.winograd.family import Winograd
from graphopt.targets.tvm.machine import Machine

FAMILIES: tuple[Family, ...] = (
    Winograd(),
    Direct(),
    Depthwise(),
    PlainConv(),
    Matmul(),
)
"""In the order in which they are asked for a default; of those for a workload, the last has the plainest definition."""


def families_for(
    workload: Workload, machine: Machine, device: str = "cpu", families: tuple[Family, ...] = FAMILIES
) -> list[Family]:
    """Those that compute a workload on a machine, with a schedule for the kind of device, in their order."""
    return [family for family in families if device in family.schedules and family.supports(workload, machine)]
