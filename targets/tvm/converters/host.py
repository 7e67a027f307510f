"""Shape arithmetic: operators on values that are known before anything runs, symbolic sizes included.

Exporters compute shapes with ordinary operators (`Shape`, `Gather`, `Mul`, `Concat`...). Evaluating those here, element
by element over numbers and symbolic expressions, is what lets a `Reshape` behind them keep its dynamic sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.targets.tvm.lowering import scalars
from graphopt.targets.tvm.lowering.call import Call, normal_axis
from graphopt.targets.tvm.lowering.operand import Operand
from graphopt.targets.tvm.lowering.registry import Declined

Elements = np.ndarray
"""An object array of Python numbers and expressions."""

HostFunction = Callable[[Call, list[Elements]], "Elements | Sequence[Elements] | None"]

LARGEST = 1024
"""Host evaluation is for shapes; larger values are computed by kernels."""

_FUNCTIONS: dict[str, tuple[HostFunction, str | None]] = {}


def host(*ops: str, dtype: str | None = None) -> Callable[[HostFunction], HostFunction]:
    """Register the host evaluation of operators; `dtype` is that of the result where it is not the first input's."""

    def register(function: HostFunction) -> HostFunction:
        for op in ops:
            _FUNCTIONS[op] = function, dtype
        return function

    return register


def evaluate(call: Call) -> list[Operand | None] | None:
    """The outputs of a node whose inputs are all host values, or None if it must become a kernel."""
    if call.node.op not in _FUNCTIONS or not call.inputs:
        return None
    given = [operand for operand in call.inputs if operand is not None]
    if not all(operand.is_host and operand.size is not None and operand.size <= LARGEST for operand in given):
        return None
    if any(operand.dtype not in ("int64", "int32", "bool", "float32") for operand in given):
        return None
    function, fixed = _FUNCTIONS[call.node.op]
    result = function(call, [operand.scalars() for operand in given])
    if result is None:
        return None
    dtype = fixed or given[0].dtype
    if call.node.op == "Cast":
        dtype = call.dtype_attr("to")
    elif call.node.op == "Where":
        dtype = given[1].dtype
    results = [result] if isinstance(result, np.ndarray) else list(result)
    if any(array.size > LARGEST for array in results):
        return None
    return [Operand.symbolic(array, dtype) for array in results]


def _each(function: Callable[..., Any], *arrays: Elements) -> Elements:
    result = np.frompyfunc(function, len(arrays), 1)(*arrays)
    return result if isinstance(result, np.ndarray) else objects(result)


def objects(value: Any, shape: tuple[int, ...] = ()) -> Elements:
    """An object array of `shape` filled with `value`."""
    array = np.empty(shape, object)
    array[...] = value
    return array


def _ints(elements: Elements) -> list[int] | None:
    flat = list(elements.ravel())
    return [int(item) for item in flat] if all(isinstance(item, int) for item in flat) else None


@host("Identity")
def _identity(call: Call, args: list[Elements]) -> Elements:
    return args[0]


def _binary(op: str, function: Callable[..., Any], dtype: str | None = None) -> None:
    def apply(call: Call, args: list[Elements]) -> Elements:
        context = scalars.Arithmetic(call.ctx.symbols, call[0].is_float)
        return _each(lambda a, b: function(context, a, b), *args)

    host(op, dtype=dtype)(apply)


_binary("Add", scalars.add)
_binary("Sub", scalars.subtract)
_binary("Mul", scalars.multiply)
_binary("Div", scalars.divide)
_binary("Equal", scalars.equal, "bool")
_binary("Less", scalars.less, "bool")
_binary("LessOrEqual", lambda c, a, b: scalars.negate(c, scalars.less(c, b, a)), "bool")
_binary("Greater", lambda c, a, b: scalars.less(c, b, a), "bool")
_binary("GreaterOrEqual", lambda c, a, b: scalars.negate(c, scalars.less(c, a, b)), "bool")
_binary("And", scalars.both, "bool")
_binary("Or", scalars.either, "bool")


@host("Mod")
def _mod(call: Call, args: list[Elements]) -> Elements | None:
    if call.attr("fmod", 0) or call[0].is_float:
        return None
    context = scalars.Arithmetic(call.ctx.symbols, False)
    return _each(lambda a, b: scalars.modulo(context, a, b), *args)


@host("Not", dtype="bool")
def _not(call: Call, args: list[Elements]) -> Elements:
    context = scalars.Arithmetic(call.ctx.symbols, False)
    return _each(lambda a: scalars.negate(context, a), args[0])


@host("Neg")
def _neg(call: Call, args: list[Elements]) -> Elements:
    return _each(lambda a: -a, args[0])


@host("Floor", "Ceil")
def _floor(call: Call, args: list[Elements]) -> Elements:
    up = call.node.op == "Ceil"
    return _each(lambda a: scalars.floor(a, up=up), args[0])


@host("Min", "Max")
def _extreme(call: Call, args: list[Elements]) -> Elements:
    context = scalars.Arithmetic(call.ctx.symbols, call[0].is_float)
    function = scalars.smaller if call.node.op == "Min" else scalars.larger
    result = args[0]
    for other in args[1:]:
        result = _each(lambda a, b: function(context, a, b), result, other)
    return result


@host("Cast")
def _cast(call: Call, args: list[Elements]) -> Elements | None:
    to = call.dtype_attr("to")
    if to not in ("int64", "int32", "bool", "float32"):
        return None
    return _each(lambda a: scalars.cast(a, to), args[0])


@host("Where")
def _where(call: Call, args: list[Elements]) -> Elements:
    context = scalars.Arithmetic(call.ctx.symbols, call[1].is_float)
    return _each(lambda c, a, b: scalars.choose(context, c, a, b), *args)


@host("Concat")
def _concat(call: Call, args: list[Elements]) -> Elements:
    return np.concatenate(args, axis=call.axis(args[0].ndim))


@host("Gather")
def _gather(call: Call, args: list[Elements]) -> Elements | None:
    indices = _ints(args[1])
    if indices is None:
        return None
    axis = call.axis(args[0].ndim)
    extent = args[0].shape[axis]
    if any(not -extent <= index < extent for index in indices):
        raise Declined(f"an index is out of range for an axis of {extent} elements")
    place = np.array(indices, np.int64).reshape(args[1].shape)
    result = np.take(args[0], place, axis=axis)
    return result if isinstance(result, np.ndarray) else objects(result)


@host("Squeeze", "Unsqueeze", "Reshape", "Expand", "Tile")
def _reshaped(call: Call, args: list[Elements]) -> Elements | None:
    listed = list(call.attr("axes")) if call.attr("axes") is not None else None
    if len(args) > 1:
        listed = _ints(args[1])
        if listed is None:
            return None
    data, op = args[0], call.node.op
    if op == "Squeeze":
        axes = [a for a in range(data.ndim) if data.shape[a] == 1] if listed is None else listed
        return np.squeeze(data, tuple(axes))
    if listed is None:
        return None
    if op == "Unsqueeze":
        return np.expand_dims(data, tuple(listed))
    if op == "Expand":
        return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(listed)))
    if op == "Tile":
        return np.tile(data, listed)
    if 0 in listed and call.attr("allowzero", 0):
        return data.reshape(listed)
    return data.reshape([data.shape[i] if size == 0 else size for i, size in enumerate(listed)])


@host("Transpose")
def _transpose(call: Call, args: list[Elements]) -> Elements:
    return np.transpose(args[0], call.attr("perm"))


@host("Flatten")
def _flatten(call: Call, args: list[Elements]) -> Elements:
    axis = int(call.attr("axis", 1))  # from the end, -1 is in front of the last axis, and not behind it
    shape = args[0].shape
    axis = axis + len(shape) if axis < 0 else axis
    return args[0].reshape(int(np.prod(shape[:axis])), int(np.prod(shape[axis:])))


@host("Slice")
def _slice(call: Call, args: list[Elements]) -> Elements | None:
    if call.version < 10:
        starts, ends = list(call.attr("starts")), list(call.attr("ends"))
        axes, steps = call.attr("axes"), None
    else:
        operands = [call.input(i) for i in range(1, 5)]
        lists = [None if o is None else _ints(o.scalars()) for o in operands]
        if any(o is not None and listed is None for o, listed in zip(operands, lists)):
            return None
        starts, ends, axes, steps = lists  # type: ignore[assignment]
    data = args[0]
    place = [slice(None)] * data.ndim
    for i, (start, end) in enumerate(zip(starts, ends)):
        step = steps[i] if steps else 1
        axis = normal_axis(axes[i], data.ndim) if axes else i
        backward_end = None if step < 0 and end < -data.shape[axis] else end
        place[axis] = slice(start, backward_end, step)
    return data[tuple(place)]


@host("Split")
def _split(call: Call, args: list[Elements]) -> Sequence[Elements] | None:
    axis = call.axis(args[0].ndim)
    sizes = list(call.attr("split")) if call.attr("split") is not None else None
    if len(args) > 1:
        sizes = _ints(args[1])
    if sizes is None:
        count = len(call.node.outputs)
        extent = args[0].shape[axis]
        part = -(-extent // count)
        sizes = [min(part, extent - i * part) for i in range(count)]
    return np.split(args[0], np.cumsum(sizes)[:-1], axis=axis)


@host("ReduceProd", "ReduceSum", "ReduceMin", "ReduceMax")
def _reduce(call: Call, args: list[Elements]) -> Elements | None:
    data = args[0]
    axes = call.attr("axes")
    if len(args) > 1:
        axes = _ints(args[1])
    if data.ndim != 1 or data.size == 0 or (axes is not None and [a % 1 for a in axes] not in ([], [0])):
        return None
    if axes is not None and len(axes) == 0 and call.attr("noop_with_empty_axes", 0):
        return data
    context = scalars.Arithmetic(call.ctx.symbols, call[0].is_float)
    functions = {"ReduceProd": scalars.multiply, "ReduceSum": scalars.add}
    functions |= {"ReduceMin": scalars.smaller, "ReduceMax": scalars.larger}
    result = data[0]
    for item in data[1:]:
        result = functions[call.node.op](context, result, item)
    return objects(result, (1,) if call.attr("keepdims", 1) else ())


@host("Range")
def _range(call: Call, args: list[Elements]) -> Elements | None:
    numbers = [item for array in args for item in array.ravel()]
    if not all(isinstance(number, int) for number in numbers) or numbers[2] == 0:
        return None
    values = range(*numbers)
    if len(values) > LARGEST:
        return None
    return np.array([int(v) for v in values] + [None], object)[:-1]


@host("ConstantOfShape")
def _constant_of_shape(call: Call, args: list[Elements]) -> Elements | None:
    sizes = _ints(args[0])
    fill = call.attr("value")
    if sizes is None or int(np.prod(sizes)) > LARGEST or (fill is not None and fill.dtype.text != "int64"):
        return None
    if fill is None:
        return None
    return objects(fill.numpy().ravel()[0].item(), tuple(sizes))
