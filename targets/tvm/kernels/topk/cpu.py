"""The first k elements of each row in order, by a heap of the best k so far with the worst of them on top.

The heap is in the results themselves. Most elements of a long row only lose against its top; at the end, the worst ones
are removed one after the other and put after the rest, which leaves the best first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common import nest
from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.topk.compute import Order

Expr = Any

TOGETHER = 32
"""The number of elements that are compared with the top of the heap at once: mostly none is better."""


def top_k(data: te.Tensor, count: Expr, order: Order) -> list[te.Tensor]:
    """Define the first `count` elements of each row of `data` (outer, n, inner) along n, and their positions (int64).

    Both are (outer, count, inner). `count` must not be larger than n.
    """
    outer, _, inner = data.shape

    def body(ins: Any, outs: Any) -> Any:
        with IRBuilder() as builder, T.seq_scope(), nest.spread(outer * inner, outer * inner * data.shape[1]) as row:
            _select(_Row(ins[0], outs[0], outs[1], row // inner, row % inner, order), count)
        return builder.get()

    shape = [outer, long(count), inner]
    return te.extern([shape, shape], [data], body, dtype=[data.dtype, "int64"], name="topk")


@dataclass(frozen=True)
class _Row:
    """One row of the data, and its heap of values and positions."""

    data: Any
    values: Any
    places: Any
    outer: Expr
    inner: Expr
    order: Order

    def read(self, at: Expr) -> Expr:
        return self.data[self.outer, at, self.inner]

    def value(self, at: Expr) -> Expr:
        return self.values[self.outer, at, self.inner]

    def place(self, at: Expr) -> Expr:
        return self.places[self.outer, at, self.inner]

    def put(self, at: Expr, value: Expr, place: Expr) -> None:
        T.buffer_store(self.values, value, [self.outer, at, self.inner])
        T.buffer_store(self.places, place, [self.outer, at, self.inner])


def _select(row: _Row, count: Expr) -> None:
    length = row.data.shape[1]
    count = long(count)
    with nest.serial(count) as at:
        row.put(at, row.read(at), at)
    with nest.serial(count // 2) as step:
        at = count // 2 - 1 - step
        value, place = T.bind(row.value(at)), T.bind(row.place(at))
        _sift(row, at, value, place, count)
    with T.If(count > 0), T.Then():
        blocks = (length - count) // TOGETHER
        with nest.serial(blocks) as block:
            first = count + block * TOGETHER
            found = T.alloc_buffer((1,), "int32", scope="local")
            top = T.bind(row.value(long(0)))
            T.buffer_store(found, 0, [0])
            with nest.serial(TOGETHER) as step:
                T.buffer_store(found, found[0] | row.order.better(row.read(first + step), top).astype("int32"), [0])
            with T.If(found[0] != 0), T.Then():
                _offer(row, first, TOGETHER, count)
        _offer(row, count + blocks * TOGETHER, length - count - blocks * TOGETHER, count)
    with nest.serial(count) as step:
        last = count - 1 - step
        value, place = T.bind(row.value(last)), T.bind(row.place(last))
        row.put(last, row.value(long(0)), row.place(long(0)))
        with T.If(last > 0), T.Then():
            _sift(row, long(0), value, place, last)


def _offer(row: _Row, first: Expr, number: Expr, count: Expr) -> None:
    """Insert those of `number` elements from `first` on that are better than the top into the full heap."""
    with nest.serial(number) as step:
        at = first + step
        value = T.bind(row.read(at))
        with T.If(row.order.better(value, row.value(long(0)))), T.Then():
            _sift(row, long(0), value, at, count)


def _sift(row: _Row, start: Expr, value: Expr, place: Expr, size: Expr) -> None:
    """Insert an element into the heap of `size` elements at `start`, or below it where worse ones are."""
    at = T.alloc_buffer((1,), "int64", scope="local")
    child = T.alloc_buffer((1,), "int64", scope="local")
    T.buffer_store(at, start, [0])
    T.buffer_store(child, start * 2 + 1, [0])
    with T.While(child[0] < size):
        # Which child is worse is unpredictable for a branch predictor, so it is computed; an only child is compared
        # with itself.
        left = T.bind(child[0])
        right = T.bind(tirx.min(left + 1, size - 1))
        is_right = row.order.before(row.value(left), row.place(left), row.value(right), row.place(right))
        T.buffer_store(child, left + is_right.astype("int64"), [0])
        worst = row.order.before(value, place, row.value(child[0]), row.place(child[0]))
        with T.If(worst):
            with T.Then():
                row.put(at[0], row.value(child[0]), row.place(child[0]))
                T.buffer_store(at, child[0], [0])
                T.buffer_store(child, child[0] * 2 + 1, [0])
            with T.Else():
                T.buffer_store(child, size, [0])
    row.put(at[0], value, place)
