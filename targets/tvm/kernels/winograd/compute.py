"""Winograd convolution of channel-blocked fp32 data: 3x3 kernels, stride 1, 2.25 or 4 times fewer multiplications.

    plan = worth(workload, machine)                  # None where a direct convolution is as fast, or it does not apply
    packed = pack_weight(weight, plan, workload)     # transformed in float64, rounded once
    out = winograd(data, packed, workload, plan)     # TE: the definition; `winograd.cpu` has the loop nest

Outputs are computed in tiles of m x m from (m + 2) x (m + 2) inputs as F(m x m, 3 x 3) of Lavin and Gray (arXiv
1509.09308): the transformed inputs of a strip of tiles, one matmul of tiles by channels for each of the (m + 2)**2
frequencies, and the inverse transform of the products.

Accuracy: the largest deviation from float64 relative to the largest output, of compiled kernels on random layers of 16
to 1024 input channels, with inputs of both signs, after ReLU, with a large mean and with heavy tails:

    direct sums 0.2 to 2.2e-6      F(2, 3) 0.2 to 1.2e-6      F(4, 3) 0.5 to 5.4e-6

F(4, 3) at the usual points 0, +-1, +-2 deviates three times as much as at those of `toom_cook`. F(6, 3) deviates by 1
to 3e-5 and needs at most a fifth fewer multiplications than F(4, 3), only on large images, so it is not used.

What is not finite, and what is so large that its neighbours would be lost beside it, is computed directly (`rescue`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from graphopt.targets.tvm.kernels.common.computes import long, reduce_axis
from graphopt.targets.tvm.kernels.common.conv_workload import ConvWorkload
from graphopt.targets.tvm.kernels.winograd.plan import WinogradPlan, out_space
from graphopt.targets.tvm.kernels.winograd.toom_cook import Matrix, transform_weight, transforms

KERNEL = "conv_winograd"


def packed_shape(workload: ConvWorkload, plan: WinogradPlan) -> tuple[int, int, int, int]:
    """Return panels of output channels, frequencies, input channels, channels of a panel."""
    panels = -(-workload.blocks // plan.vectors)
    return panels, plan.frequencies, workload.spec.in_channels, plan.vectors * workload.lanes


def pack_weight(weight: np.ndarray, workload: ConvWorkload, plan: WinogradPlan) -> np.ndarray:
    """Return `weight` (O, I, 3, 3) transformed and in `packed_shape`; channels beyond the last are zero."""
    panels, frequencies, depth, width = packed_shape(workload, plan)
    transformed = transform_weight(weight, plan.outputs)
    missing = panels * width - weight.shape[0]
    transformed = np.pad(transformed, [(0, 0), (0, 0), (0, missing)])
    return np.ascontiguousarray(transformed.reshape(frequencies, depth, panels, width).transpose(2, 0, 1, 3))


def winograd(data: te.Tensor, weight: te.Tensor, workload: ConvWorkload, plan: WinogradPlan) -> te.Tensor:
    """Define the convolution of blocked `data` (N, I/v, H, W, v) with a packed weight: N, O/v, *out_space, v.

    It is written as one sum over frequencies, channels and the tile's inputs, which is not how it is computed.
    """
    m, size, lanes, spec = plan.outputs, plan.size, workload.lanes, workload.spec
    matrices = transforms(m)
    frequency = [reduce_axis(size, f"f{axis}") for axis in range(2)]
    place = [reduce_axis(size, f"p{axis}") for axis in range(2)]
    channel = reduce_axis(spec.in_channels, "rc")

    def element(n: Any, block: Any, y: Any, x: Any, lane: Any) -> Any:
        where = [
            position // m * m + inner - begin
            for position, inner, begin in zip((y, x), place, spec.pads_begin, strict=True)
        ]
        inside = [test for at, extent in zip(where, workload.space, strict=True) for test in (at >= 0, at < extent)]
        value = tirx.if_then_else(
            tirx.all(*inside), data(n, channel // lanes, *where, channel % lanes), tirx.const(0, "float32")
        )
        factor = tirx.const(1, "float32")
        for axis, position in enumerate((y, x)):
            factor = factor * _entry(matrices.input, frequency[axis], place[axis])
            factor = factor * _entry(matrices.output, position % m, frequency[axis])
        width = plan.vectors
        place_in_panel = block % width * lanes + lane
        product = value * weight(block // width, frequency[0] * size + frequency[1], channel, place_in_panel)
        return te.sum(product * factor, axis=[*frequency, channel, *place])

    shape = (data.shape[0], workload.blocks, *out_space(workload), lanes)
    return te.compute(
        [long(extent) for extent in shape],
        element,
        name=KERNEL,
        attrs={"kernel": KERNEL, "plan": [long(number) for number in (*plan.to_ints(), *workload.numbers())]},
    )


def _entry(matrix: Matrix, row: Any, column: Any) -> Any:
    """Return the element of a constant matrix at a variable index."""
    value = tirx.const(0, "float32")
    for i, entries in enumerate(matrix):
        for j, entry in enumerate(entries):
            if entry:
                value = tirx.Select(tirx.all(row == i, column == j), tirx.const(float(entry), "float32"), value)
    return value


def from_numbers(numbers: Sequence[int]) -> tuple[ConvWorkload, WinogradPlan]:
    """Decode the numbers that `winograd` wrote into the annotation of its block."""
    outputs, strips, columns, vectors, by_strips, *rest = numbers
    return ConvWorkload.of(rest), WinogradPlan(outputs, strips, columns, vectors, bool(by_strips))
