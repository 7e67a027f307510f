"""Computes every value that a store uses more than once just once: in a buffer that LLVM keeps in registers.

Neither `Let` nor `Bind` would do: TVM's vectorizer visits some `Let`s twice and then fails on what is right, and its
simplifiers replace bound variables by their values again, whereby graphs become trees that grow exponentially. What is
loaded from a buffer they leave alone, and LLVM sees a value in it (`mem2reg`) before it does anything else. A statement
that has no vector form is made a loop by the vectorizer; the others stay vectors.

Only stores with a `Let` are looked at: polynomials, and maxima that keep NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from graphopt.targets.tvm.tir_passes.sharing import Sharing


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.BindValues")
def _bind(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    if not _holds_let(func.body):
        return func
    body = tvm_ffi.structural_map(func.body, (tirx.For, _vector), order="post")
    inside = [store for loop in _vector_loops(body) for store in _stores(loop)]  # kept, so that no address is reused
    done = {hash(store) for store in inside}
    scalar = (tirx.BufferStore, lambda store: store if hash(store) in done else _scalar(store))
    return func.with_body(tvm_ffi.structural_map(body, scalar, order="post"))


def bind_values() -> tvm.transform.Pass:
    """The pass: to be run right before loops are vectorized: nothing takes conditions and indices apart any more."""
    return _bind


@dataclass
class _Values:
    """The buffers of one statement, a vector of `lanes` elements for each value."""

    lanes: int
    lane: Any
    buffers: dict[str, tirx.Buffer] = field(default_factory=dict)

    def rewrite(self, store: tirx.BufferStore) -> tirx.Stmt:
        if not _holds_let(store.value):
            return store
        bindings, value = Sharing((store.buffer, store.indices)).split(store.value)
        if not bindings:
            return store
        counts: dict[str, int] = {}
        places = []
        for var, _ in bindings:
            kind = str(var.ty.dtype)
            places.append((kind, counts.get(kind, 0)))
            counts[kind] = counts.get(kind, 0) + 1
        made = {kind: self._buffer(kind, count) for kind, count in counts.items()}
        loads: dict[int, Any] = {}

        def read(var: tirx.Var) -> Any:
            return loads.get(hash(var), var)

        statements: list[tirx.Stmt] = []
        for (var, bound), (kind, number) in zip(bindings, places, strict=True):
            at = [tirx.IntImm("int64", number * self.lanes) + self.lane]
            statements.append(
                tirx.BufferStore(made[kind], tvm_ffi.structural_map(bound, (tirx.Var, read), order="post"), at)
            )
            loads[hash(var)] = tirx.BufferLoad(made[kind], at)
        rest = tvm_ffi.structural_map(value, (tirx.Var, read), order="post")
        return tirx.SeqStmt([*statements, tirx.BufferStore(store.buffer, rest, store.indices)])

    def _buffer(self, kind: str, count: int) -> tirx.Buffer:
        size = [tirx.IntImm("int64", count * self.lanes)]
        made = tirx.decl_buffer(size, kind, "values", scope="local", data_alignment=64, layout=None)
        self.buffers[f"{kind}.{len(self.buffers)}"] = made
        return made

    def around(self, body: tirx.Stmt) -> tirx.Stmt:
        """The statement with its buffers."""
        return tirx.SeqStmt([*map(tirx.AllocBuffer, self.buffers.values()), body]) if self.buffers else body


def _vector(loop: tirx.For) -> tirx.Stmt:
    if loop.kind != tirx.ForKind.VECTORIZED or not isinstance(loop.extent, tirx.IntImm):
        return loop
    values = _Values(int(loop.extent), loop.loop_var - loop.min)
    body = tvm_ffi.structural_map(loop.body, (tirx.BufferStore, values.rewrite), order="post")
    made = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, annotations=loop.annotations)
    return values.around(made)


def _scalar(store: tirx.BufferStore) -> tirx.Stmt:
    values = _Values(1, tirx.IntImm("int64", 0))
    return values.around(values.rewrite(store))


def _vector_loops(body: tirx.Stmt) -> list[tirx.For]:
    found: list[tirx.For] = []
    tvm_ffi.structural_walk(body, (tirx.For, found.append))
    return [loop for loop in found if loop.kind == tirx.ForKind.VECTORIZED]


def _stores(body: tirx.Stmt) -> list[tirx.BufferStore]:
    found: list[tirx.BufferStore] = []
    tvm_ffi.structural_walk(body, (tirx.BufferStore, found.append))
    return found


def _holds_let(node: tirx.Stmt | tirx.PrimExpr) -> bool:
    found: list[tirx.Let] = []
    tvm_ffi.structural_walk(node, (tirx.Let, found.append))
    return bool(found)
