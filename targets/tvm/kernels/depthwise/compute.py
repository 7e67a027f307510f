"""Depthwise convolution of channel-blocked activations: one filter per channel, a vector of channels at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from graphopt.targets.tvm.kernels.common.computes import long, reduce_axis
from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.common.windows import read_inside
from graphopt.targets.tvm.kernels.depthwise.plan import DepthwisePlan

KERNEL = "conv_depthwise"


def pack_weight(weight: np.ndarray, workload: ConvWorkload) -> np.ndarray:
    """Pack `weight` (C, 1, *kernel) as C/v, taps, v; lanes beyond the last channel are zero."""
    lanes, channels = workload.lanes, workload.spec.out_channels
    blocks = -(-channels // lanes)
    flat = np.pad(weight.reshape(channels, -1), [(0, blocks * lanes - channels), (0, 0)])
    return np.ascontiguousarray(flat.reshape(blocks, lanes, -1).transpose(0, 2, 1))


def depthwise(data: te.Tensor, weight: te.Tensor, workload: ConvWorkload, plan: DepthwisePlan) -> te.Tensor:
    """The convolution of `data` (N, C/v, *space, v) with a packed weight: N, C/v, *out_space, v."""
    spec, geometry = workload.spec, workload.geometry
    taps = [reduce_axis(size, f"r{axis}") for axis, size in enumerate(spec.kernel)]
    zero, kind = tirx.const(0, data.dtype), workload.dtypes.accumulator

    def element(n: Any, block: Any, *index: Any) -> Any:
        *where, lane = index
        tap: Any = long(0)
        for axis, size in enumerate(spec.kernel):
            tap = tap * size + taps[axis]
        value = read_inside(lambda places: data(n, block, *places, lane), geometry, where, taps, zero)
        return te.sum(value.astype(kind) * weight(block, tap, lane).astype(kind), axis=taps)

    shape = (data.shape[0], data.shape[1], *geometry.out_space, workload.lanes)
    numbers = (plan.columns, *workload.numbers())
    attributes = {"kernel": KERNEL, "plan": [long(number) for number in numbers]}
    return te.compute([long(size) for size in shape], element, name=KERNEL, attrs=attributes)
