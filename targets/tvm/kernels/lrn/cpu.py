"""The loop nest of `lrn.square_sums` for CPUs.

The squares of all channels of a few positions are contiguous in a small buffer, so that the sum over neighbouring
channels is a sum of vectors at consecutive offsets.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common import nest
from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.nest import Fused, even_split
from graphopt.targets.tvm.kernels.common.windows import unflatten
from graphopt.targets.tvm.kernels.lrn.compute import KERNEL
from graphopt.targets.tvm.machine import Machine

POSITIONS = 8
"""The number of positions processed together: whole cache lines of every channel block, and independent sums."""


def schedule(func: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc | None:
    """Return the loop nest for a function whose anchor is `square_sums`; None for others, and for very wide sums."""
    fused = nest.take_apart(func, KERNEL, machine)
    if fused is None:
        return None
    (size,) = fused.plan()
    if size // 2 > int(fused.shape[-1]):
        return None
    return nest.put_together(fused, lambda: _emit(fused, size)).with_attr("graphopt.schedule", f"lrn {size}")


def _emit(fused: Fused, size: int) -> None:
    space = tuple(int(extent) for extent in fused.shape[2:-1])
    runs = even_split(math.prod(space), POSITIONS)
    pieces = sum(count for _, _, count in runs)
    with nest.parallel(fused.shape[0] * pieces) as index:
        n, piece = index // pieces, index % pieces
        first, length, count = runs[0]
        if len(runs) == 1:
            _positions(fused, size, n, first + piece * length, length, space)
            return
        with T.If(piece < count):
            with T.Then():
                _positions(fused, size, n, first + piece * length, length, space)
            with T.Else():
                second, shorter, _ = runs[1]
                _positions(fused, size, n, second + (piece - count) * shorter, shorter, space)


def _positions(fused: Fused, size: int, n: Any, first: Any, length: int, space: tuple[int, ...]) -> None:
    """Emit all channels of `length` positions from the flat position `first` on."""
    (data,) = fused.inputs
    blocks, lanes = int(fused.shape[1]), int(fused.shape[-1])
    row = (blocks + 2) * lanes  # a block of zeros before and after the channels
    squares = T.alloc_buffer((length * row,), str(data.dtype), scope="local")
    for position in range(length):
        for edge in (0, blocks + 1):
            with nest.vectorized(lanes) as lane:
                T.buffer_store(squares, tirx.const(0, data.dtype), [long(position * row + edge * lanes) + lane])
    with nest.serial(blocks) as block:
        for position in range(length):
            with nest.vectorized(lanes) as lane:
                value = data[n, block, *unflatten(first + position, space), lane]
                T.buffer_store(squares, value * value, [position * row + (block + 1) * lanes + lane])
    with nest.serial(blocks) as block:
        for position in range(length):
            with nest.vectorized(lanes) as lane:
                begin = position * row + (block + 1) * lanes + lane - (size - 1) // 2
                total = squares[begin]
                for k in range(1, size):
                    total = total + squares[begin + k]
                fused.store([n, block, *unflatten(first + position, space), lane], total)
