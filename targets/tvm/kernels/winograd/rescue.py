"""Finds tiles that Winograd's transforms would spoil, and computes those directly.

A number that is not finite, or so large that everything beside it is lost in rounding, goes into every product of its
tile, and from there into outputs that do not read it. Such a tile is seen in the products, once transformed along one
axis: of every frequency something goes into the first or the last row, so that the sum of the squares of these two
rows tells (it is NaN where one of them is). That is one multiply-add for every third product of a tile, over all input
channels; what is done about it is code that runs for such tiles alone.

The direct sums read the weights that there are: a kernel can be had back from its transform, to the last place but
one. Taps that are zero come back as zero, so that zero times infinity is NaN here too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.nest import serial, stored, vectorized
from graphopt.targets.tvm.kernels.common.norms import number
from graphopt.targets.tvm.kernels.winograd.toom_cook import TAPS, Transforms

LOST = Fraction(1, 1 << 23)
"""Part of the terms of a difference that rounding may have left of zero."""


def recover_taps(
    weight: tirx.Buffer, place: Sequence[Any], first: Any, matrices: Transforms, halves: tirx.Buffer, taps: tirx.Buffer
) -> None:
    """Emit the kernels of one input channel and a vector of output channels, from their transforms.

    weight: as packed; place: its panel and input channel; first: the first element of the vector; halves: scratch, for
    at least (TAPS + 1) * frequencies of an axis; taps: gets the TAPS * TAPS elements. Both: (elements, 1, lanes).
    """
    panel, channel = place
    size, lanes = len(matrices.weight), int(taps.shape[2])

    def back(load: Callable[[int], Any]) -> list[Any]:
        """Without the factors: a rounded product less another is not zero where the two are equal, if it is fused."""
        return [load(0), load(1) - load(2), load(size - 1)]

    def transformed(i: int, j: Any, lane: Any) -> Any:
        return weight[panel, i * size + j, channel, first + lane]

    def half(i: int, j: int, lane: Any) -> Any:
        return halves[long(i * size + j), long(0), lane]

    with serial(size) as j, vectorized(lanes) as lane:
        # The last one: what the middle tap is a difference of, to know what may be left of zero.
        sizes = tirx.abs(transformed(1, j, lane)) + tirx.abs(transformed(2, j, lane))
        for i, value in enumerate([*back(lambda i: transformed(i, j, lane)), sizes]):
            T.buffer_store(halves, value, [long(i * size) + j, long(0), lane])
    with vectorized(lanes) as lane:
        for down, factor in enumerate(matrices.taps):
            values = back(lambda j, i=down: half(i, j, lane))  # type: ignore[misc]
            if down == 1:
                bound = (half(TAPS, 1, lane) + half(TAPS, 2, lane)) * number(LOST)
                values[1] = tirx.Select(tirx.abs(values[1]) <= bound, number(0), values[1])
            for right, value in enumerate(values):
                scaled = value * number(factor * matrices.taps[right])
                T.buffer_store(taps, scaled, [long(down * TAPS + right), long(0), lane])


def add_products(
    data: tirx.Buffer, place: Sequence[Any], corner: Sequence[Any], taps: tirx.Buffer, sums: tirx.Buffer, outputs: int
) -> None:
    """Emit the addition of one input channel to the sums (outputs * outputs, 1, lanes) of a tile.

    place: image, block and lane of the channel; corner: the first position that the tile reads, which may lie outside
    the image, as may others: these are zeros, and left out.
    """
    image, block, channel = place
    height, width = data.shape[2], data.shape[3]
    lanes = int(sums.shape[2])

    def within(start: Any, extent: Any) -> tuple[Any, Any]:
        """The first tap inside the image, and how many are."""
        begin = stored(T.max(long(0), -start))
        return begin, T.max(long(0), T.min(long(TAPS), extent - start) - begin)

    with serial(outputs) as i, serial(outputs) as k:
        top, left = stored(corner[0] + i), stored(corner[1] + k)
        (y, down), (x, right) = within(top, height), within(left, width)
        with serial(down) as dy, serial(right) as dx, vectorized(lanes) as lane:
            value = data[image, block, top + y + dy, left + x + dx, channel]
            at = i * outputs + k
            total = sums[at, long(0), lane] + value * taps[(y + dy) * TAPS + x + dx, long(0), lane]
            T.buffer_store(sums, total, [at, long(0), lane])
