"""Shorthand for building loop nests as TIR statements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm_ffi
from tvm import ir, tirx

Expr = Any


def int64(value: int) -> tirx.IntImm:
    return tirx.IntImm("int64", value)


def block(*statements: tirx.Stmt | None) -> tirx.Stmt:
    """The statements one after the other; None is left out."""
    kept = [statement for statement in statements if statement is not None]
    return kept[0] if len(kept) == 1 else tirx.SeqStmt(kept)


def loop(
    extent: int | Expr, body: Callable[[Expr], tirx.Stmt], name: str, kind: tirx.ForKind = tirx.ForKind.SERIAL
) -> tirx.Stmt:
    """`body` for each index below `extent`; an extent of 1 makes no loop."""
    if isinstance(extent, int | tirx.IntImm) and int(extent) == 1:
        return body(int64(0))
    var = tirx.Var(name, "int64")
    size = int64(extent) if isinstance(extent, int) else extent
    return tirx.For(var, int64(0), size, kind, body(var))


def vectors(lanes: int, body: Callable[[Expr], tirx.Stmt]) -> tirx.Stmt:
    """`body` for `lanes` elements at once."""
    return loop(lanes, body, "lane", tirx.ForKind.VECTORIZED)


def parallel(extent: int | Expr, body: Callable[[Expr], tirx.Stmt], name: str, threads: bool) -> tirx.Stmt:
    """`body` for each index, on several cores if `threads`."""
    return loop(extent, body, name, tirx.ForKind.PARALLEL if threads else tirx.ForKind.SERIAL)


def buffer(shape: Sequence[int], dtype: str, name: str, scope: str = "local") -> tirx.Buffer:
    """A buffer to be allocated: of scope "local" for what LLVM is to keep in registers, else "global"."""
    return tirx.decl_buffer([int64(size) for size in shape], dtype, name, scope=scope, data_alignment=64)


def with_buffer(allocated: tirx.Buffer, *statements: tirx.Stmt | None) -> tirx.Stmt:
    """The statements with the buffer allocated around them."""
    return block(tirx.AllocBuffer(allocated), *statements)


def replaced(node: Any, values: Mapping[Any, Expr]) -> Any:
    """`node` with variables replaced."""
    pairs = list(values.items())
    return tvm_ffi.structural_map(
        node,
        (tirx.Var, lambda var: next((new for old, new in pairs if var.same_as(old)), var)),
        order="post",
    )


def prefetch(buffer: tirx.Buffer, indices: Sequence[Expr], locality: int) -> tirx.Stmt:
    """Ask for the cache line of an element: `locality` 3 for the first level, 2 for the second."""
    address = tirx.address_of(tirx.BufferLoad(buffer, list(indices)))
    number = [tirx.const(value, "int32") for value in (0, locality, 1)]
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, *number))


def loads(node: Any) -> list[ir.TensorLoad]:
    """Every load in `node`."""
    found: list[ir.TensorLoad] = []
    tvm_ffi.structural_walk(node, [(ir.TensorLoad, found.append)])
    return found
