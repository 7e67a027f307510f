"""Pooling of channel-blocked activations: the maxima or sums of windows."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm.kernels.common.computes import long, lowest, max_over, reduce_axis
from graphopt.targets.tvm.kernels.common.windows import Geometry, read_inside
from graphopt.targets.tvm.machine import Machine

KERNEL = "pool"
MAX, SUM = 0, 1


def pool(data: te.Tensor, geometry: Geometry, kind: int, machine: Machine) -> te.Tensor:
    """Define the maximum (`MAX`) or sum (`SUM`) of each window of `data` (N, C/v, *space, v): N, C/v, *out_space, v.

    Positions of a window outside of the data count as minus infinity or as 0.
    """
    lanes = int(data.shape[-1])
    taps = [reduce_axis(size, f"r{axis}") for axis, size in enumerate(geometry.kernel)]
    fill = lowest(str(data.dtype)) if kind == MAX else tirx.const(0, data.dtype)

    def element(n: Any, block: Any, *index: Any) -> Any:
        *where, lane = index
        value = read_inside(lambda places: data(n, block, *places, lane), geometry, where, taps, fill)
        return (max_over if kind == MAX else te.sum)(value, axis=taps)

    columns = max(1, min(geometry.width, machine.accumulators, machine.registers - 4))
    numbers = [columns, lanes, kind, *geometry.numbers()]
    shape = (data.shape[0], data.shape[1], *geometry.out_space, lanes)
    attributes = {"kernel": KERNEL, "plan": [long(number) for number in numbers]}
    return te.compute([long(size) for size in shape], element, name="pool", attrs=attributes)
