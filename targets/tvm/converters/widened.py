"""Bytes as 16-bit integers, for processors whose products of integers read these."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.ir import Graph
from graphopt.targets.tvm.converters.tensors import elementwise
from graphopt.targets.tvm.kernels.common.dot import INTEGER, LARGEST_SMALL, SMALL, WIDENED, bytes_for
from graphopt.targets.tvm.kernels.family import Dtypes
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Operand
from graphopt.targets.tvm.machine import Machine

WIDEN = "widen"
"""The name of the functions that only widen."""

_PRODUCTS = ("ConvInteger", "BlockedConvInteger", "MatMulInteger")


def widens(graph: Graph, machine: Machine | None) -> bool:
    """Return whether products of a graph are to read 16-bit integers on this machine."""
    if bytes_for(machine) != WIDENED:
        return False
    weights = [node.input(1) for node in graph.all_nodes() if node.op in _PRODUCTS and node.attr("group", 1) == 1]
    constants = [value.constant for value in weights if value is not None]
    return any(bytes_for(machine, _is_small(one.numpy())) == WIDENED for one in constants if one is not None)


def for_products(ctx: Context, data: Operand, weight: Operand) -> tuple[Operand, Operand]:
    """Return uint8 data and a constant int8 weight in the types that the kernels of the machine multiply.

    All readers of a value share its wide form, so that the kernel that computes it writes nothing else.
    """
    if (data.dtype, weight.dtype) != (INTEGER.data, INTEGER.weight):
        return data, weight
    if bytes_for(ctx.machine, _is_small(weight.array)) != WIDENED:
        return data, weight
    shape = tuple(int(size) for size in weight.shape)
    wide = weight.derived(shape, ("int16",), lambda array: array.astype(np.int16), dtype="int16")
    return widened(ctx, data), wide


def with_small(ctx: Context, dtypes: Dtypes, weight: Operand) -> Dtypes:
    """Return the types of a product by `weight`: those of small weights if it has such and the machine uses it."""
    if dtypes != INTEGER or not weight.is_constant:
        return dtypes
    return SMALL if bytes_for(ctx.machine, _is_small(weight.array)) == SMALL else dtypes


def _is_small(weight: np.ndarray | None) -> bool:
    """See `Dtypes.small_weight`."""
    return weight is not None and weight.min(initial=0) >= -LARGEST_SMALL and weight.max(initial=0) <= LARGEST_SMALL


def as_products_read(ctx: Context, data: Operand) -> Operand:
    """Return a value in the form in which products of integers read it, so that it is stored in no other."""
    is_wide = data.dtype == INTEGER.data and not data.is_host and ctx.widens
    return widened(ctx, data) if is_wide else data


def widened(ctx: Context, data: Operand) -> Operand:
    """Return bytes as 16-bit integers: computed once for all readers of a value."""
    known = ctx.wide.get(data)
    if known is None:
        known = ctx.wide[data] = elementwise(ctx, lambda x: x, [data], "int16", WIDEN)
    return known


def widen_parts(
    ctx: Context, whole: Operand, parts: Sequence[Operand], join: Callable[[list[Operand]], Operand]
) -> None:
    """Provide the wide form of bytes that `join` makes of parts: the parts are widened, in the kernels that write them.

    What nobody reads in the end is removed later.
    """
    if whole.dtype == INTEGER.data and whole not in parts and ctx.widens:
        ctx.wide[whole] = join([widened(ctx, part) for part in parts])
