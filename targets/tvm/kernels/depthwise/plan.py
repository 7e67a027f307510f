"""How a depthwise convolution is computed: the positions of a row that stay in registers together."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.machine import Machine


@dataclass(frozen=True)
class DepthwisePlan:
    """How many positions of a row are computed together."""

    columns: int


def plan_depthwise(workload: ConvWorkload, machine: Machine) -> DepthwisePlan:
    """As many accumulators as leave registers for the filter's taps along a row and the data."""
    return candidates(workload, machine)[0]


def candidates(workload: ConvWorkload, machine: Machine) -> list[DepthwisePlan]:
    """The default first."""
    room = max(4, machine.registers - 2 - workload.spec.kernel[workload.geometry.axis])
    most = min(workload.geometry.width, room, machine.accumulators)
    return [DepthwisePlan(columns) for columns in dict.fromkeys(max(1, most - less) for less in (0, 2, 4, 6))]
