"""Computes every value that a store uses more than once just once: in a buffer that LLVM keeps in registers.

Neither `tirx.Let` nor `Bind` would do: TVM's vectorizer visits some `Let`s twice and then fails on what is right, and
its simplifiers replace bound variables by their values again, whereby graphs become trees that grow exponentially. What
is loaded from a buffer they leave alone, and LLVM sees a value in it (`mem2reg`) before it does anything else. A
statement that has no vector form is made a loop by the vectorizer; the others stay vectors.

Only stores with a `let` are looked at: merged operators, polynomials, and maxima that keep NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, tirx

from graphopt.targets.tvm.tir_passes import let
from graphopt.targets.tvm.tir_passes.expressions import is_choice, operands_of
from graphopt.targets.tvm.tir_passes.sharing import Sharing


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.BindValues")
def _bind(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    if not let.holds_let(func.body):
        return func
    body = tvm_ffi.structural_map(func.body, (tirx.For, _vector), order="post")
    body = tvm_ffi.structural_map(body, (tirx.BufferStore, _scalar), order="post")
    return func.with_body(let.written_out(body))  # what is left stands in conditions, bounds and the like


def bind_values() -> tvm.transform.Pass:
    """Return the pass.

    It must run right before loops are vectorized, when nothing takes conditions and indices apart any more.
    """
    return _bind


@dataclass
class _Values:
    """The buffers of one loop or statement, a vector of `lanes` elements for each value."""

    lanes: int
    lane: Any
    loop_var: tirx.Var | None = None
    buffers: list[tirx.Buffer] = field(default_factory=list)

    def rewrite(self, store: tirx.BufferStore) -> tirx.Stmt:
        """The store as statements without lets."""
        if not let.holds_let(store.value):
            return store
        bindings, value = Sharing((store.buffer, store.indices), self.loop_var).split(store.value)
        places: dict[int, Any] = {}
        statements: list[tirx.Stmt] = []
        for (read, bound), place in zip(bindings, self._places(bindings), strict=True):
            buffer, at = place
            statements += self._store(buffer, let.replace_reads(bound, places), at)
            places[let.number_of(read)] = tirx.BufferLoad(buffer, at)
        statements += self._store(store.buffer, let.replace_reads(value, places), store.indices)
        return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)

    def _store(self, buffer: tirx.Buffer, value: Any, indices: Sequence[Any]) -> list[tirx.Stmt]:
        """A store; of a value with lets on one side of a choice, one for each side: only one is computed."""
        if not let.holds_let(value):
            return [tirx.BufferStore(buffer, value, indices)]
        if not is_choice(value):
            return [tirx.BufferStore(buffer, let.written_out(value), indices)]
        condition, *sides = operands_of(value) or []
        stores = [self.rewrite(tirx.BufferStore(buffer, side, indices)) for side in sides]
        return [tirx.IfThenElse(let.written_out(condition), *stores)]

    def _places(self, bindings: Sequence[tuple[ir.Call, Any]]) -> list[tuple[tirx.Buffer, list[Any]]]:
        """A new buffer for all values of each dtype, and the place of each value in it."""
        numbers: dict[str, int] = {}
        counted = []
        for read, _ in bindings:
            kind = str(read.ty.dtype)
            counted.append((kind, numbers.get(kind, 0)))
            numbers[kind] = numbers.get(kind, 0) + 1
        made = {kind: self._buffer(kind, count) for kind, count in numbers.items()}
        return [(made[kind], [tirx.IntImm("int64", number * self.lanes) + self.lane]) for kind, number in counted]

    def _buffer(self, kind: str, count: int) -> tirx.Buffer:
        size = [tirx.IntImm("int64", count * self.lanes)]
        made = tirx.decl_buffer(size, kind, "values", scope="local", data_alignment=64, layout=None)
        self.buffers.append(made)
        return made

    def around(self, body: tirx.Stmt) -> tirx.Stmt:
        """The statement with its buffers."""
        return tirx.SeqStmt([*map(tirx.AllocBuffer, self.buffers), body]) if self.buffers else body


def _vector(loop: tirx.For) -> tirx.Stmt:
    if loop.kind != tirx.ForKind.VECTORIZED or not isinstance(loop.extent, tirx.IntImm):
        return loop
    values = _Values(int(loop.extent), loop.loop_var - loop.min, loop.loop_var)
    body = tvm_ffi.structural_map(loop.body, (tirx.BufferStore, values.rewrite), order="post")
    made = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, annotations=loop.annotations)
    return values.around(made)


def _scalar(store: tirx.BufferStore) -> tirx.Stmt:
    values = _Values(1, tirx.IntImm("int64", 0))
    return values.around(values.rewrite(store))
