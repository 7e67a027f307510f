"""Cumulative sums and products on CPUs: each row is read once, several rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common import nest
from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.statements import pieces
from graphopt.targets.tvm.kernels.scan.compute import Scan

ROWS = 4
"""The number of contiguous rows that are summed side by side, to hide the latency of additions."""
VECTORS = 64
"""The number of vectors of adjacent strided rows that are summed side by side, to read long pieces of memory."""


def scan(data: te.Tensor, spec: Scan) -> te.Tensor:
    """Define the scan of `data` (outer, n, inner) along its second axis, of the same shape and type."""

    def body(ins: Any, outs: Any) -> Any:
        with IRBuilder() as builder, T.seq_scope():
            (_contiguous if facts.extent(data.shape[2]) == 1 else _strided)(ins[0], outs[0], spec)
        return builder.get()

    return te.extern([data.shape], [data], body, dtype=[data.dtype], name="scan")


def _contiguous(data: Any, out: Any, spec: Scan) -> None:
    outer = data.shape[0]
    groups = outer // ROWS
    with nest.spread(groups, outer * data.shape[1]) as group:
        _rows(data, out, spec, group * ROWS, ROWS)
    with nest.serial(outer - groups * ROWS) as rest:
        _rows(data, out, spec, groups * ROWS + rest, 1)


def _rows(data: Any, out: Any, spec: Scan, first: Any, rows: int) -> None:
    total = T.alloc_buffer((rows,), spec.kind, scope="local")
    for row in range(rows):
        T.buffer_store(total, spec.neutral, [row])
    with nest.serial(data.shape[1]) as step:
        for row in range(rows):
            _step(data, out, spec, [first + row, _place(data, spec, step), long(0)], total, long(row))


def _strided(data: Any, out: Any, spec: Scan) -> None:
    outer, length, inner = data.shape
    columns = VECTORS * spec.lanes
    strips = inner // columns
    if facts.extent(strips) != 0:
        with nest.spread(outer * strips, outer * length * inner) as strip:
            _columns(data, out, spec, strip // strips, strip % strips * columns, columns)
    first, rest = strips * columns, inner - strips * columns
    if facts.extent(rest) is None:
        with nest.serial(outer) as row, nest.serial(rest) as column:
            _columns(data, out, spec, row, first + column, 1)
    elif facts.extent(rest) != 0:
        with nest.spread(outer, outer * length * rest) as row:
            _columns(data, out, spec, row, first, int(rest))


def _columns(data: Any, out: Any, spec: Scan, row: Any, first: Any, width: int) -> None:
    """Emit `width` adjacent columns from `first` on."""
    total = T.alloc_buffer((width,), spec.kind, scope="local")
    _vectors(width, spec.lanes, lambda at: T.buffer_store(total, spec.neutral, [at]))
    with nest.serial(data.shape[1]) as step:
        place = _place(data, spec, step)
        _vectors(width, spec.lanes, lambda at: _step(data, out, spec, [row, place, first + at], total, at))


def _vectors(width: int, lanes: int, body: Callable[[Any], None]) -> None:
    """Emit `body` for each of `width` elements: full vectors, and shorter ones for the rest."""
    with nest.serial(width // lanes) as vector, nest.vectorized(lanes) as lane:
        body(vector * lanes + lane)
    for offset, length in pieces(width % lanes, lanes):
        with nest.vectorized(length) as lane:
            body(width // lanes * lanes + offset + lane)


def _place(data: Any, spec: Scan, step: Any) -> Any:
    return data.shape[1] - 1 - step if spec.reverse else step


def _step(data: Any, out: Any, spec: Scan, index: list[Any], total: Any, at: Any) -> None:
    """Add the element at `index` to `total[at]`, and store the sum before or after it."""
    value = data[tuple(index)].astype(spec.kind)
    if spec.exclusive:
        T.buffer_store(out, total[at].astype(str(out.dtype)), index)
        T.buffer_store(total, spec.combine(total[at], value), [at])
    else:
        T.buffer_store(total, spec.combine(total[at], value), [at])
        T.buffer_store(out, total[at].astype(str(out.dtype)), index)
