"""The plan of a depthwise convolution: the positions of a row that stay in registers together."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.machine import Machine


@dataclass(frozen=True)
class DepthwisePlan:
    """The number of positions of a row that are computed together."""

    columns: int


def plan_depthwise(workload: ConvWorkload, machine: Machine) -> DepthwisePlan:
    """Return as many accumulators as leave registers for the data and the filter's taps along a row."""
    return candidates(workload, machine)[0]


def candidates(workload: ConvWorkload, machine: Machine) -> list[DepthwisePlan]:
    """Return the plans worth measuring, the default first."""
    room = max(4, machine.registers - 2 - workload.spec.kernel[workload.geometry.axis])
    most = min(workload.geometry.width, room, machine.accumulators)
    return [DepthwisePlan(columns) for columns in dict.fromkeys(max(1, most - less) for less in (0, 2, 4, 6))]
