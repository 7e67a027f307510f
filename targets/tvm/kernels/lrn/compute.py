"""Local response normalization across the channels of channel-blocked activations (ONNX LRN)."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm.kernels.common.computes import long, reduce_axis

KERNEL = "lrn"


def square_sums(data: te.Tensor, size: int) -> te.Tensor:
    """Define, for each element of `data` (N, C/v, *space, v), the sum of the squares of `size` channels around it.

    As in ONNX, (size - 1) // 2 of them come before; channels that do not exist count as 0.
    """
    lanes, channels = int(data.shape[-1]), int(data.shape[1]) * int(data.shape[-1])
    axis = reduce_axis(size, "k")

    def element(n: Any, block: Any, *index: Any) -> Any:
        *where, lane = index
        channel = block * lanes + lane + axis - (size - 1) // 2
        value = data(n, channel // lanes, *where, channel % lanes)
        inside = tirx.all(channel >= 0, channel < channels)
        value = tirx.if_then_else(inside, value, tirx.const(0, data.dtype))
        return te.sum(value * value, axis=axis)

    return te.compute(data.shape, element, name=KERNEL, attrs={"kernel": KERNEL, "plan": [long(size)]})
