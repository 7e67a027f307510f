"""Pooling: maxima, means and norms of windows or of whole planes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm.converters.conv import is_padded, padded
from graphopt.targets.tvm.converters.reduce import reduced
from graphopt.targets.tvm.converters.tensors import all_of, product, where, wide
from graphopt.targets.tvm.converters.window import Window, int_expr, read_window
from graphopt.targets.tvm.kernels.common.computes import OUT_EWISE_FUSABLE, lowest, max_over
from graphopt.targets.tvm.kernels.common.windows import Geometry
from graphopt.targets.tvm.kernels.pooling import compute as pooling
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.define import define
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter


def _covering(window: Window, sizes: Sequence[Any]) -> Window:
    """Return the window with enough padding at the end that its last position is inside (ceil_mode reaches beyond)."""
    end = []
    for size, k, s, d, low, count in zip(
        sizes, window.kernel, window.strides, window.dilations, window.begin, window.output
    ):
        reach = (count - 1) * s + (k - 1) * d + 1
        missing = reach - size - low
        end.append(max(missing, 0) if isinstance(missing, int) else tirx.max(missing, int_expr(0)))
    return Window(window.kernel, window.strides, window.dilations, window.begin, tuple(end), window.output)


def _taps(window: Window) -> list[te.IterVar]:
    return [te.reduce_axis((0, k), f"r{i}") for i, k in enumerate(window.kernel)]


def _place(window: Window, index: Sequence[Any], taps: Sequence[Any]) -> list[Any]:
    return [i * s + r * d for i, s, r, d in zip(index, window.strides, taps, window.dilations)]


def _windows(c: Call) -> tuple[Operand, Window]:
    data = c[0]
    window = read_window(c, data, [int(k) for k in c.attr("kernel_shape")])
    return data, _covering(window, data.shape[2:])


def _blocked(c: Call, data: Operand, window: Window) -> Geometry | None:
    """Return the geometry of a window over channel-blocked data, which ignores the last axis, one vector."""
    machine = c.ctx.machine
    if machine is None or data.dtype != "float32" or data.rank < 4:
        return None
    entries = (window.kernel, window.strides, window.dilations, window.begin, window.end)
    alone = [entry[-1] for entry in entries] == [1, 1, 1, 0, 0] and data.shape[-1] == machine.lanes(data.dtype)
    static = all(isinstance(n, int) for n in (*data.shape[1:], *window.begin, *window.end, *window.output))
    if not alone or not static:
        return None
    geometry = Geometry(*(tuple(int(number) for number in entry[:-1]) for entry in (*entries, data.shape[2:])))
    # After its last position a window may leave data over, depending on stride and ceil_mode.
    return geometry if geometry.out_space == window.output[:-1] else None


@converter("MaxPool")
def max_pool(c: Call) -> list[Operand | None]:
    data, window = _windows(c)
    geometry = None if c.wants(1) else _blocked(c, data, window)
    if geometry is not None:
        return [_pooled(c, geometry, pooling.MAX), None]
    sizes = [*data.shape[:2], *window.output]
    kind = data.dtype

    def pool(x: te.Tensor) -> te.Tensor:
        source = padded(x, window, lowest(kind), kind) if is_padded(window) else x
        taps = _taps(window)
        return define(
            sizes,
            lambda n, ch, *i: max_over(source(n, ch, *_place(window, i, taps)), axis=taps),
            name="max_pool",
        )

    result = c.ctx.te(pool, data, name=f"max_pool{window.rank}d")
    return [result, _max_indices(c, data, result, window) if c.wants(1) else None]


def _pooled(c: Call, geometry: Geometry, kind: int) -> Operand:
    assert c.ctx.machine is not None
    machine, attributes = c.ctx.machine, {"op_pattern": OUT_EWISE_FUSABLE}
    return c.ctx.te(lambda x: pooling.pool(x, geometry, kind, machine), c[0], name="pool", attributes=attributes)


def _by_columns(flat: tirx.Expr, height: Dim, width: Dim) -> tirx.Expr:
    """Return the column-major position in a plane of the element at the row-major position `flat`."""
    return tirx.indexmod(flat, int_expr(width)) * int_expr(height) + tirx.indexdiv(flat, int_expr(width))


def _max_indices(c: Call, data: Operand, maxima: Operand, window: Window) -> Operand:
    """Return the position of each of `maxima` in the flattened `data`; the first of equal ones, -1 if all are NaN.

    It is the smallest position of an element that equals the maximum: a reduction to one value per window, which has a
    vector schedule, unlike a reduction to pairs of value and position.
    """
    if c.attr("storage_order", 0) and data.rank != 4:
        raise Declined("column-major indices of other than two spatial axes")
    sizes = [*data.shape[:2], *window.output]
    nowhere = tirx.max_value("int64")

    def pool(x: te.Tensor, largest: te.Tensor) -> te.Tensor:
        taps = _taps(window)

        def element(n: Any, ch: Any, *index: tirx.Expr) -> tirx.Expr:
            place = [i - int_expr(low) for i, low in zip(_place(window, index, taps), window.begin)]
            inside = [t for i, s in zip(place, data.shape[2:]) for t in (i >= int_expr(0), i < int_expr(s))]
            flat: Any = int_expr(0)
            for i, size in zip(place, data.shape[2:]):
                flat = flat * size + i
            found = tirx.EQ(where(all_of(inside), x(n, ch, *place), lowest(data.dtype)), largest(n, ch, *index))
            return te.min(tirx.Select(tirx.And(all_of(inside), found), flat, nowhere), axis=taps)

        least = define(sizes, element, name="max_pool_position")

        def position(n: Any, ch: Any, *index: tirx.Expr) -> tirx.Expr:
            flat, plane = least(n, ch, *index), (n * data.shape[1] + ch) * product(data.shape[2:])
            found = plane + (_by_columns(flat, *data.shape[2:]) if c.attr("storage_order", 0) else flat)
            return tirx.Select(tirx.EQ(flat, nowhere), int_expr(-1), found)

        return define(sizes, position, name="max_pool_indices")

    return c.ctx.te(pool, data, maxima, name="max_pool_indices")


@converter("AveragePool")
def average_pool(c: Call) -> Operand:
    data = c[0]
    asked = read_window(c, data, [int(k) for k in c.attr("kernel_shape")])
    window = _covering(asked, data.shape[2:])
    kind = wide(data.dtype)
    counts_padding = bool(c.attr("count_include_pad", 0))
    sizes = [*data.shape[:2], *window.output]
    geometry = _blocked(c, data, window)

    def pool(x: te.Tensor) -> te.Tensor:
        if geometry is not None and c.ctx.machine is not None:
            total = pooling.pool(x, geometry, pooling.SUM, c.ctx.machine)
        else:
            source = padded(x, window, tirx.const(0, kind), kind) if is_padded(window) else x
            taps = _taps(window)
            total = define(
                sizes,
                lambda n, ch, *i: te.sum(source(n, ch, *_place(window, i, taps)).astype(kind), axis=taps),
                name="pool_sum",
            )
        full = not is_padded(window) or (counts_padding and window.end == asked.end)
        area = tirx.const(math.prod(window.kernel), kind)

        def mean(*index: tirx.Expr) -> tirx.Expr:
            count = area if full else _counted(index[2:], data.shape[2:], asked, counts_padding).astype(kind)
            return (total(*index) / count).astype(data.dtype)

        return define(sizes, mean, name="avg_pool")

    return c.ctx.te(pool, data, name=f"avg_pool{window.rank}d")


def _counted(index: Sequence[Any], sizes: Sequence[Any], window: Window, counts_padding: bool) -> Any:
    """Return how many elements of a window count: those of the data, and of the explicit padding if included."""
    total: Any = None
    for i, size, k, s, d, low, high in zip(
        index, sizes, window.kernel, window.strides, window.dilations, window.begin, window.end
    ):
        first = i * s - low
        bottom, top = (int_expr(0) - low, size + high) if counts_padding else (int_expr(0), int_expr(size))
        skipped = tirx.max(int_expr(0), tirx.floordiv(bottom - first + (d - 1), int_expr(d)))
        last = tirx.min(int_expr(k), tirx.floordiv(top - first + (d - 1), int_expr(d)))
        count = last - skipped
        total = count if total is None else total * count
    return total


@converter("LpPool")
def lp_pool(c: Call) -> Operand:
    data, window = _windows(c)
    kind, order = wide(data.dtype), int(c.attr("p", 2))
    sizes = [*data.shape[:2], *window.output]

    def pool(x: te.Tensor) -> te.Tensor:
        source = padded(x, window, tirx.const(0, kind), kind) if is_padded(window) else x
        taps = _taps(window)
        total = define(
            sizes,
            lambda n, ch, *i: te.sum(
                _raised(tirx.abs(source(n, ch, *_place(window, i, taps)).astype(kind)), order), axis=taps
            ),
            name="pool_sum",
        )
        return define(sizes, lambda *i: _rooted(total(*i), order).astype(data.dtype), name="lp_pool")

    return c.ctx.te(pool, data, name=f"lp_pool{window.rank}d")


def _raised(x: tirx.Expr, order: int) -> tirx.Expr:
    if order <= 2:
        return x if order == 1 else x * x
    return tirx.power(x, tirx.const(order, str(x.ty.dtype)))


def _rooted(x: tirx.Expr, order: int) -> tirx.Expr:
    if order <= 2:
        return x if order == 1 else tirx.sqrt(x)
    return tirx.power(x, tirx.const(1.0 / order, str(x.ty.dtype)))


@converter("GlobalAveragePool")
def global_average_pool(c: Call) -> Operand:
    data = c[0]
    axes = range(2, data.rank)

    def divide(total: tirx.Expr) -> tirx.Expr:
        count: Any = int_expr(1)
        for axis in axes:
            count = count * data.shape[axis]
        return total / count.astype(str(total.ty.dtype))

    return reduced(c.ctx, data, axes, te.sum, keep=True, after=divide, name="global_avg_pool")


@converter("GlobalMaxPool")
def global_max_pool(c: Call) -> Operand:
    return reduced(c.ctx, c[0], range(2, c[0].rank), te.max, keep=True, name="global_max_pool")


@converter("GlobalLpPool")
def global_lp_pool(c: Call) -> Operand:
    order = int(c.attr("p", 2))
    return reduced(
        c.ctx,
        c[0],
        range(2, c[0].rank),
        te.sum,
        keep=True,
        before=lambda x: _raised(tirx.abs(x), order),
        after=lambda x: _rooted(x, order),
        name="global_lp_pool",
    )
