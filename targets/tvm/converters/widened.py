"""Bytes as 16-bit integers, for processors whose products of integers read these."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.targets.tvm.converters.tensors import elementwise
from graphopt.targets.tvm.kernels.common.dot import INTEGER, WIDENED, bytes_for
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Operand


def for_products(ctx: Context, data: Operand, weight: Operand) -> tuple[Operand, Operand]:
    """Return uint8 data and a constant int8 weight in the types that the kernels of the machine multiply.

    All readers of a value share its wide form, so that the kernel that computes it writes nothing else.
    """
    if (data.dtype, weight.dtype) != (INTEGER.data, INTEGER.weight) or bytes_for(ctx.machine) != WIDENED:
        return data, weight
    shape = tuple(int(size) for size in weight.shape)
    wide = weight.derived(shape, ("int16",), lambda array: array.astype(np.int16), dtype="int16")
    return widened(ctx, data), wide


def as_products_read(ctx: Context, data: Operand) -> Operand:
    """Return a value in the form in which products of integers read it, so that it is stored in no other."""
    is_wide = data.dtype == INTEGER.data and not data.is_host and bytes_for(ctx.machine) == WIDENED
    return widened(ctx, data) if is_wide else data


def widened(ctx: Context, data: Operand) -> Operand:
    """Return bytes as 16-bit integers: computed once for all readers of a value."""
    known = ctx.wide.get(data)
    if known is None:
        known = ctx.wide[data] = elementwise(ctx, lambda x: x, [data], "int16", "widen")
    return known


def widen_parts(
    ctx: Context, whole: Operand, parts: Sequence[Operand], join: Callable[[list[Operand]], Operand]
) -> None:
    """Provide the wide form of bytes that `join` makes of parts: the parts are widened, in the kernels that write them.

    What nobody reads in the end is removed later.
    """
    if whole.dtype == INTEGER.data and whole not in parts and bytes_for(ctx.machine) == WIDENED:
        ctx.wide[whole] = join([widened(ctx, part) for part in parts])
