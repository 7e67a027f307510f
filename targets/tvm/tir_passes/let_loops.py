"""Leaves loops over `Let` expressions that TVM's vectorizer refuses to LLVM's."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.SerializeRefusedLets")
def _serialize(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    if not _holds_let(func.body) or _is_vectorizable(func):
        return func
    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.For, _serial), order="post"))


def serialize_refused_lets() -> tvm.transform.Pass:
    """The pass: to be run right before loops are vectorized.

    `VectorizeLoop` visits some expressions twice (the body of a Let whose value is the same for all elements, a Let
    inside the value of another one) and then fails an internal check, "Let cannot bind the same var to two different
    values", on what is right. Which ones is told by trying; in a function that fails, the loops over Lets stay loops.
    """
    return _serialize


def _is_vectorizable(func: tirx.PrimFunc) -> bool:
    try:
        tirx.transform.VectorizeLoop(True)(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}))
    except tvm.error.InternalError:
        return False
    return True


def _serial(loop: tirx.For) -> tirx.For:
    if loop.kind != tirx.ForKind.VECTORIZED or not _holds_let(loop.body):
        return loop
    return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body, annotations=loop.annotations)


def _holds_let(node: tirx.Stmt) -> bool:
    found: list[tirx.Let] = []
    tvm_ffi.structural_walk(node, (tirx.Let, found.append))
    return bool(found)
