"""Allocation of accumulators on the stack of the function that uses them, from where LLVM moves them into registers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, tirx

MOST = 4096
"""The size in bytes up to which a buffer is kept on the stack: far more than all registers hold."""

_KEEP = "disable_lower_builtin"  # TVM's own name for "leave this allocation as it is"
_SCOPE = "compute_scope"  # TVM's own name for "compile this statement as a function by itself"


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.KeepLocalsOnStack")
def _keep(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    return func.with_body(_sink(tvm_ffi.structural_map(func.body, (tirx.AllocBuffer, _marked), order="post")))


def keep_locals_on_stack() -> tvm.transform.Pass:
    """Return the pass; to be run after `StorageRewrite`, which rewrites allocations.

    TVM takes buffers of scope "local" from its heap of temporary memory (only small ones of scope "global" stay on the
    stack). LLVM never splits heap memory into registers: in a function that other threads run, it stores the
    accumulators in every iteration of the inner loop, which costs a convolution a fifth to a half of its speed.

    A buffer that only a statement marked as a `compute_scope` uses is allocated there, because that is a separate
    function.
    """
    return _keep


def _marked(alloc: tirx.AllocBuffer) -> tirx.AllocBuffer:
    return on_stack(alloc) if _is_small_local(alloc) else alloc


def on_stack(alloc: tirx.AllocBuffer) -> tirx.AllocBuffer:
    """Return the allocation as one on the stack."""
    return tirx.AllocBuffer(alloc.buffer, annotations={**dict(alloc.annotations), _KEEP: tirx.IntImm("bool", 1)})


def _is_small_local(alloc: tirx.AllocBuffer) -> bool:
    buffer = alloc.buffer
    if buffer.scope() != "local" or not all(isinstance(size, tirx.IntImm) for size in buffer.shape):
        return False
    kind = tvm.DataType(buffer.dtype)
    return math.prod(int(extent) for extent in buffer.shape) * kind.lanes * ((kind.bits + 7) // 8) <= MOST


def _sink(body: tirx.Stmt) -> tirx.Stmt:
    """Move the allocations of small locals that only one `compute_scope` uses into it."""
    scopes: list[tirx.AttrStmt] = []
    tvm_ffi.structural_walk(body, (tirx.AttrStmt, lambda stmt: scopes.append(stmt) if _is_scope(stmt) else None))
    if not scopes:
        return body
    allocs: list[tirx.AllocBuffer] = []
    tvm_ffi.structural_walk(body, (tirx.AllocBuffer, allocs.append))
    everywhere, insides = _uses(body), [_uses(scope.body) for scope in scopes]
    own = [
        alloc
        for alloc in allocs
        if _is_small_local(alloc) and any(_count(inside, alloc) == _count(everywhere, alloc) for inside in insides)
    ]

    def outside(alloc: tirx.AllocBuffer) -> tirx.Stmt:
        return tirx.Evaluate(0) if any(alloc.buffer.same_as(other.buffer) for other in own) else alloc

    def inside(stmt: tirx.AttrStmt) -> tirx.AttrStmt:
        used = _uses(stmt.body) if _is_scope(stmt) else []
        here = [_marked(alloc) for alloc in own if _count(used, alloc)]
        return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, tirx.SeqStmt([*here, stmt.body])) if here else stmt

    body = tvm_ffi.structural_map(body, (tirx.AllocBuffer, outside), order="post")
    return tvm_ffi.structural_map(body, (tirx.AttrStmt, inside), order="post")


def _is_scope(stmt: tirx.AttrStmt) -> bool:
    return str(stmt.attr_key) == _SCOPE


def _uses(stmt: tirx.Stmt) -> list[Any]:
    """Return the buffers of all loads and stores."""
    found: list[Any] = []
    tvm_ffi.structural_walk(
        stmt,
        [
            (ir.TensorLoad, lambda load: found.append(load.source)),
            (tirx.BufferStore, lambda store: found.append(store.buffer)),
        ],
    )
    return found


def _count(uses: Iterable[Any], alloc: tirx.AllocBuffer) -> int:
    return sum(buffer.same_as(alloc.buffer) for buffer in uses)
