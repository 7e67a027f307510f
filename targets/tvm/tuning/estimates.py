"""The closed forms of kernel families for a layer that was not measured."""

from __future__ import annotations

from graphopt.compression.latency import LayerSizes
from graphopt.hardware.target import Target
from graphopt.targets.tvm.kernels.common.conv_workload import ConvSpec, ConvWorkload
from graphopt.targets.tvm.kernels.winograd.plan import cycles, direct_cycles, worth
from graphopt.targets.tvm.machine import machine_for


def winograd_share(sizes: LayerSizes, target: Target) -> float:
    """Return the share of a direct convolution's time that Winograd's algorithm takes; 1 where it is not chosen."""
    machine, half = machine_for(target), len(sizes.pads) // 2
    spec = ConvSpec(
        sizes.weight[0],
        sizes.data[1],
        sizes.weight[2:],
        sizes.strides,
        sizes.dilations,
        sizes.pads[:half],
        sizes.pads[half:],
        sizes.groups,
    )
    lanes = machine.lanes("float32")
    blocked = sizes.data[1] >= lanes
    workload = ConvWorkload(spec, sizes.data[0], sizes.data[2:], lanes, blocked)
    plan = worth(workload, machine)
    return 1.0 if plan is None else cycles(workload, plan, machine) / direct_cycles(workload, machine)
