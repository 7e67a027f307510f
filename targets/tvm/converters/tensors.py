"""Small building blocks of compute definitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.emitter import Context, scalar
from graphopt.targets.tvm.lowering.operand import Dim, Operand

Index = Sequence[Any]


def broadcast_index(tensor_shape: Sequence[Dim], index: Index) -> list[Any]:
    """Return the index into a tensor that numpy broadcasting reads for an index of the (larger) result."""
    tail = list(index)[len(index) - len(tensor_shape) :]
    return [0 if isinstance(size, int) and size == 1 else i for size, i in zip(tensor_shape, tail)]


def broadcast_read(ctx: Context, tensor: te.Tensor, operand: Operand, index: Index, shape: Sequence[Dim]) -> tirx.Expr:
    """Return the element of an operand that broadcasting to `shape` puts at `index`.

    An open size may turn out to be 1. Along the last axis, code for both cases is generated and selected at run time:
    each is a vector load (or a broadcast of one element), where a computed index would be a gather.
    """
    place = broadcast_index(operand.shape, index)
    tail = shape[len(shape) - operand.rank :]
    last = None
    for axis, (size, wanted) in enumerate(zip(operand.shape, tail)):
        if isinstance(size, int) or ctx.same(size, wanted):
            continue
        is_one = tirx.EQ(size, tirx.IntImm("int64", 1))
        if axis == operand.rank - 1:
            last = is_one
        else:
            place[axis] = tirx.Select(is_one, tirx.IntImm("int64", 0), place[axis])
    if last is None:
        return tensor(*place)
    return tirx.if_then_else(last, tensor(*place[:-1], tirx.IntImm("int64", 0)), tensor(*place))


def wide(dtype: str) -> str:
    """Return the type to compute in: 16-bit floats are computed in float32 and rounded once."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def elementwise(
    ctx: Context,
    function: Callable[..., tirx.Expr],
    operands: Sequence[Operand],
    dtype: str,
    name: str,
) -> Operand:
    """Emit one kernel that applies `function` to the broadcast operands; one-element constants become immediates."""
    operands, shape = ctx.broadcast(operands)
    immediate = [_immediate(operand) for operand in operands]
    tensors = [operand for operand, value in zip(operands, immediate) if value is None]

    def compute(*inputs: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            values, rest = [], iter(zip(inputs, tensors))
            for value in immediate:
                if value is None:
                    tensor, operand = next(rest)
                    value = broadcast_read(ctx, tensor, operand, index, shape)
                values.append(value)
            return function(*values).astype(dtype)

        return define(shape, element, name=name)

    return ctx.te(compute, *tensors, name=name)


def zeros(ctx: Context, sizes: Sequence[Dim], dtype: str, name: str) -> Operand:
    """A tensor of zeros: what sums of no terms are."""
    return ctx.te(lambda: define(sizes, lambda *index: zero(dtype), name=name), name=name)


def _immediate(operand: Operand) -> tirx.Expr | None:
    """Return a one-element constant as an expression, None for anything else."""
    if not operand.is_constant or operand.size != 1 or operand.dtype == "bfloat16":
        return None
    array = operand.array
    assert array is not None
    value = array.reshape(-1)[0].item()
    if operand.dtype == "uint64" and value >= 1 << 63:
        return None
    return scalar(value, operand.dtype)


def flatten(index: Index, shape: Sequence[Dim]) -> Any:
    """Return the position of a row-major index; 0 for no axes."""
    flat: Any = 0
    for i, extent in zip(index, shape):
        flat = i if isinstance(flat, int) and flat == 0 else flat * extent + i
    return flat


def unflatten(flat: Any, shape: Sequence[Dim]) -> list[Any]:
    """Return the row-major index of a position; any index if there are no elements."""
    index: list[Any] = []
    for axis in range(len(shape) - 1, -1, -1):
        size = shape[axis]
        size = max(size, 1) if isinstance(size, int) else size
        if axis == 0:
            index.insert(0, flat)
        else:
            index.insert(0, tirx.indexmod(flat, size))
            flat = tirx.indexdiv(flat, size)
    return index


def product(sizes: Sequence[Dim]) -> Dim:
    """Return the product of sizes; 1 for none."""
    result: Dim = 1
    for size in sizes:
        result = size if isinstance(result, int) and result == 1 else result * size
    return result


def all_of(conditions: Sequence[Any]) -> Any:
    """Return the conjunction of conditions; True for none."""
    result: Any = True
    for condition in conditions:
        result = condition if result is True else tirx.And(result, condition)
    return result


def any_of(conditions: Sequence[Any]) -> Any:
    """Return the disjunction of conditions; False for none."""
    result: Any = False
    for condition in conditions:
        result = condition if result is False else tirx.Or(result, condition)
    return result


def where(condition: Any, value: tirx.Expr, other: tirx.Expr) -> tirx.Expr:
    """Return `value` if the condition holds; otherwise it is not computed, so it may read out of range."""
    return value if condition is True else tirx.if_then_else(condition, value, other)


def zero(dtype: str) -> tirx.Expr:
    return tirx.const(False, "bool") if dtype == "bool" else tirx.const(0, dtype)
