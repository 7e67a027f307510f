"""Products of 16-bit floats, where the processor multiplies these."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np

from graphopt.targets.tvm.converters.cast import cast_to
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Operand


def in_bfloat16(ctx: Context, data: Operand, weight: Operand) -> tuple[Operand, Operand] | None:
    """Return float32 data and constant weights as the bfloat16 that they were cast from, to be multiplied as such.

    None if they hold other numbers, or the processor does not multiply bfloat16: products of these are exact in
    float32, so that only the order of sums depends on it.
    """
    if not multiplies_bfloat16(ctx) or data.narrow is None or data.narrow.dtype != "bfloat16":
        return None
    if not weight.is_constant or weight.dtype != "float32":
        return None
    if weight.narrow is not None and weight.narrow.dtype == "bfloat16":
        return data.narrow, weight.narrow
    shape = tuple(int(size) for size in weight.shape)
    array = weight.array
    assert array is not None
    if not _is_bfloat16(array):
        return None
    return data.narrow, weight.derived(shape, ("bfloat16",), lambda x: x.astype(ml_dtypes.bfloat16), dtype="bfloat16")


def moved(ctx: Context, data: Operand, move: Callable[[Operand], Operand]) -> Operand:
    """Return `move(data)`, whose elements are those of `data` in other places.

    Of data that was widened from bfloat16 this is what is moved, so that products can still read it.
    """
    if not multiplies_bfloat16(ctx) or data.narrow is None or data.is_constant:
        return move(data)
    return cast_to(ctx, move(data.narrow), data.dtype)


def multiplies_bfloat16(ctx: Context) -> bool:
    """Return whether the machine has instructions that sum products of bfloat16."""
    return ctx.machine is not None and "bf16" in ctx.machine.instructions


def _is_bfloat16(array: np.ndarray) -> bool:
    """Return whether all numbers of a float32 array are bfloat16 too."""
    return not (np.ascontiguousarray(array).view(np.uint32) & 0xFFFF).any()
