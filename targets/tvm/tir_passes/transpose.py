"""Transposition in registers of square tiles that are contiguous along one axis, and stored along the other.

In a pair of loops whose outer one carries the annotation

    for i in range(T): for j in vectorized(T): if i0 + i < n and j0 + j < m: out[.. + j] = f(data[.. + i + stride * j])

vectors along j would read one element at a time. If the whole tile is inside, T vectors along i are loaded instead and
transposed by log2(T) rounds of shuffles of two vectors each, and `f` is applied to the rows of the transposed tile. A
tile that is cut off by an end is shifted back until it is full, if the annotation allows that: addresses must be linear
in the axis, which lowered code no longer shows. Otherwise the two loops are kept, also if an `if_then_else` inside `f`
is not decided in the same way for the whole tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, sym, tirx

from graphopt.targets.tvm.tir_passes.peel import conjuncts

TRANSPOSE = "graphopt_transpose"
"""The annotation of the outer loop of a tile to be transposed: which axes may be shifted, a sum of these two."""
ROWS, COLUMNS = 1, 2
UNIT_BYTES = 16
"""The size of blocks within which a shuffle is one instruction, even if vectors are longer."""


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.TransposeTiles")
def _transpose(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.For, _visit), order="post"))


def transpose_tiles() -> tvm.transform.Pass:
    """Return the pass; to be run on lowered loops over flat buffers, before they are vectorized."""
    return _transpose


def _visit(loop: tirx.For) -> tirx.Stmt:
    if not loop.annotations or TRANSPOSE not in loop.annotations:
        return loop
    kept = {key: value for key, value in loop.annotations.items() if key != TRANSPOSE}
    plain = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, loop.body, annotations=kept)
    inner = loop.body
    if not isinstance(inner, tirx.For) or inner.kind != tirx.ForKind.VECTORIZED:
        return plain
    store, tests = inner.body, list[Any]()
    while isinstance(store, tirx.IfThenElse) and store.else_case is None:
        tests += conjuncts(store.condition)
        store = store.then_case
    if not isinstance(store, tirx.BufferStore):
        return plain
    tile = _Tile(loop.loop_var, inner.loop_var, int(inner.extent))
    serial = tirx.For(inner.loop_var, inner.min, inner.extent, tirx.ForKind.SERIAL, inner.body)
    serial = tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, serial)
    movable = [var for var, bit in ((tile.row, ROWS), (tile.column, COLUMNS)) if bit & int(loop.annotations[TRANSPOSE])]
    return _moved_inside(store, tests, tile, movable, serial) or plain


def _moved_inside(
    store: tirx.BufferStore, tests: list[Any], tile: _Tile, movable: Sequence[tirx.Var], serial: tirx.Stmt
) -> tirx.Stmt | None:
    """Shift a tile that is cut off by an end back until it is full; what was stored there is stored again.

    None if there is nothing to transpose. Tests that are not the end of a shiftable axis have to hold in the whole
    tile.
    """
    moves: list[tuple[tirx.Var, Any]] = []
    before: list[tirx.Stmt] = []
    begun: list[Any] = []
    room: list[Any] = []
    others: list[Any] = []
    for test in tests:
        var = tile.ended(test)
        if var is None or not _is_in(var, movable) or _is_in(var, [old for old, _ in moves]):
            others.append(test)
            continue
        kind = str(var.ty.dtype)
        first, beyond = tile.at(test.a, 0, 0), tirx.Var("beyond", kind)
        before.append(tirx.Bind(beyond, tirx.max(first + tile.size - test.b, tirx.const(0, kind))))
        moves.append((var, var - beyond))
        begun.append(first < test.b)
        room.append(test.b >= tile.size)

    def move(var: tirx.Var) -> Any:
        return next((value for old, value in moves if var.same_as(old)), var)

    store, others = (tvm_ffi.structural_map(node, (tirx.Var, move), order="post") for node in (store, others))
    moved = _where_whole(store, others, tile, serial, room)
    return (
        moved if moved is None or not moves else tirx.IfThenElse(tirx.all(*begun), tirx.SeqStmt([*before, moved]), None)
    )


def _where_whole(
    store: tirx.BufferStore, tests: Sequence[Any], tile: _Tile, serial: tirx.Stmt, also: Sequence[Any]
) -> tirx.Stmt | None:
    """Return the tile transposed if all tests hold in all of it and `also` holds, else `serial`; None if impossible."""
    value, chosen = _decided(store.value, tile)
    everywhere = [tile.everywhere(test) for test in [*tests, *chosen]]
    turned = None if any(test is None for test in everywhere) else _turned(store, value, tile)
    if turned is None:
        return None
    open_tests = [tile.analyzer.simplify(test) for test in [*everywhere, *also]]
    open_tests = [test for test in open_tests if not (isinstance(test, tirx.IntImm) and int(test))]
    if not open_tests:
        return turned
    return tirx.IfThenElse(tirx.all(*open_tests), turned, tvm.s_tir.renew_defs(tirx.PrimFunc([], serial)).body)


class _Tile:
    """A tile of `size` rows, numbered by `row`, and as many columns, numbered by `column`."""

    def __init__(self, row: tirx.Var, column: tirx.Var, size: int) -> None:
        self.row, self.column, self.size = row, column, size
        self.analyzer = sym.Analyzer()
        for var in (row, column):
            self.analyzer.bind(var, ir.Range(tirx.const(0, str(var.ty.dtype)), tirx.const(size, str(var.ty.dtype))))

    def at(self, node: Any, row: int | None = None, column: int | None = None) -> Any:
        """Return `node` for one row or column or both."""
        places = [(var, number) for var, number in ((self.row, row), (self.column, column)) if number is not None]

        def place(var: tirx.Var) -> Any:
            return next((tirx.const(number, str(v.ty.dtype)) for v, number in places if v.same_as(var)), var)

        return tvm_ffi.structural_map(node, (tirx.Var, place), order="post")

    def varies(self, node: Any) -> bool:
        """Return whether `node` differs within the tile."""
        found: list[tirx.Var] = []
        tvm_ffi.structural_walk(node, (tirx.Var, found.append))
        return any(var.same_as(self.row) or var.same_as(self.column) for var in found)

    def steps(self, index: Any) -> tuple[int | None, int | None]:
        """Return by how much an index grows per row and per column; None for steps that are not constant."""
        index = self.analyzer.simplify(index)
        row, column = (sym.detect_linear_equation(index, [var]) for var in (self.row, self.column))
        steps = (int(linear[0]) if linear and isinstance(linear[0], tirx.IntImm) else None for linear in (row, column))
        return next(steps), next(steps)

    def ended(self, test: Any) -> tirx.Var | None:
        """Return the loop of the tile that `test` ends at a bound, `first + row < end`; None for any other test."""
        if not isinstance(test, tirx.LT) or self.varies(test.b) or _is_loaded(test):
            return None
        steps = self.steps(test.a)
        return self.row if steps == (1, 0) else self.column if steps == (0, 1) else None

    def everywhere(self, test: Any) -> Any:
        """Return a test that holds exactly if `test` does in the whole tile; None if there is none."""
        if not self.varies(test):
            return test
        if not isinstance(test, tirx.LT | tirx.LE | tirx.GT | tirx.GE) or _is_loaded(test):
            return None
        row_step, column_step = self.steps(test.a - test.b)
        if row_step is None or column_step is None:
            return None
        less = isinstance(test, tirx.LT | tirx.LE)
        row, column = (self.size - 1 if (step > 0) == less else 0 for step in (row_step, column_step))
        return self.analyzer.simplify(self.at(test, row, column))


def _turned(store: tirx.BufferStore, value: Any, tile: _Tile) -> tirx.Stmt | None:
    """Return the whole tile by vectors; None if it needs no transposition, or is not stored along its columns."""
    if len(store.indices) != 1 or tile.steps(store.indices[0])[1] != 1:
        return None
    loads: list[ir.TensorLoad] = []
    tvm_ffi.structural_walk(value, [(ir.TensorLoad, loads.append)])
    turns: list[tuple[Any, tirx.Buffer]] = []
    before: list[tirx.Stmt] = []
    for load in loads:
        row_step, column_step = tile.steps(load.indices[0]) if len(load.indices) == 1 else (None, None)
        known = any(tvm_ffi.structural_equal(load, other) for other, _ in turns)
        if row_step != 1 or column_step in (0, 1) or known:
            continue
        buffer = tirx.decl_buffer([tile.size * tile.size], load.source.dtype, "turned", scope="local")
        before += [tirx.AllocBuffer(buffer), *_load_turned(load, buffer, tile)]
        turns.append((load, buffer))
    if not turns:
        return None

    def from_tile(row: int) -> Any:
        def replace(load: ir.TensorLoad) -> Any:
            for other, buffer in turns:
                if tvm_ffi.structural_equal(load, other):
                    return tirx.BufferLoad(buffer, [tile.column + row * tile.size])
            return load

        return tvm_ffi.structural_map(value, (ir.TensorLoad, replace), order="post")

    rows = []
    for row in range(tile.size):
        line = tile.at(tirx.BufferStore(store.buffer, from_tile(row), store.indices), row)
        kind, zero = str(tile.column.ty.dtype), tirx.const(0, str(tile.column.ty.dtype))
        loop = tirx.For(tile.column, zero, tirx.const(tile.size, kind), tirx.ForKind.VECTORIZED, line)
        rows.append(tvm.s_tir.renew_defs(tirx.PrimFunc([], loop)).body)
    return tirx.SeqStmt([*before, *rows])


def _load_turned(load: ir.TensorLoad, buffer: tirx.Buffer, tile: _Tile) -> list[tirx.Stmt]:
    """Return statements that load the tile by vectors along rows and store it in `buffer` by vectors along columns."""
    statements: list[tirx.Stmt] = []

    def bound(value: Any) -> tirx.Var:
        var = tirx.Var("vector", str(value.ty.dtype))
        statements.append(tirx.Bind(var, value))
        return var

    size = tile.size
    vectors = []
    for column in range(size):
        index = tile.analyzer.simplify(tile.at(load.indices[0], 0, column))
        vectors.append(bound(tirx.BufferLoad(load.source, [tirx.Ramp(index, 1, size)])))
    unit = min(size, max(1, UNIT_BYTES // max(1, tvm.DataType(str(load.source.dtype)).bits // 8)))
    for pairs in _rounds(size, unit):
        vectors = [
            bound(tirx.Shuffle([vectors[a], vectors[b]], [tirx.const(lane, "int32") for lane in lanes]))
            for a, b, lanes in pairs
        ]
    for row, vector in enumerate(vectors):
        statements.append(tirx.BufferStore(buffer, vector, [tirx.Ramp(tirx.const(row * size, "int32"), 1, size)]))
    return statements


def _rounds(size: int, unit: int) -> list[list[tuple[int, int, list[int]]]]:
    """Return the rounds of shuffles that transpose `size` vectors of `size` elements, both powers of two.

    A round lists, for each new vector, two old ones and which of their elements it takes. First, squares of `unit`
    elements on a side are transposed, each vector interleaved with the one half the square's height below; then the
    squares swap places.
    """
    rounds = []
    for _ in range(unit.bit_length() - 1):
        made = []
        for number in range(size):
            first, place = number // unit * unit, number % unit
            taken = [first + place // 2, first + place // 2 + unit // 2]
            starts = [piece + place % 2 * (unit // 2) for piece in range(0, size, unit)]
            lanes = [start + i + which * size for start in starts for i in range(unit // 2) for which in (0, 1)]
            made.append((taken[0], taken[1], lanes))
        rounds.append(made)
    distance = unit
    while distance < size:
        made = []
        for number in range(size):
            a, b = number & ~distance, number | distance
            lower = [lane if not lane & distance else size + lane - distance for lane in range(size)]
            upper = [lane + distance if not lane & distance else size + lane for lane in range(size)]
            made.append((a, b, upper if number & distance else lower))
        rounds.append(made)
        distance *= 2
    return rounds


def _decided(value: Any, tile: _Tile) -> tuple[Any, list[Any]]:
    """Return `value` where every condition that varies within the tile holds, and these conditions."""
    tests: list[Any] = []

    def choose(call: ir.Call) -> Any:
        if not getattr(call.op, "name", "").endswith(".if_then_else") or not tile.varies(call.args[0]):
            return call
        tests.extend(conjuncts(call.args[0]))
        return call.args[1]

    return tvm_ffi.structural_map(value, (ir.Call, choose), order="post"), tests


def _is_in(var: tirx.Var, variables: Sequence[tirx.Var]) -> bool:
    return any(var.same_as(other) for other in variables)


def _is_loaded(node: Any) -> bool:
    found: list[ir.TensorLoad] = []
    tvm_ffi.structural_walk(node, (ir.TensorLoad, found.append))
    return bool(found)
