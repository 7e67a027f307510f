"""Keeps TVM's vectorizer away from a Let that is the same for all elements and holds another Let."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.SerializeScalarLets")
def _serialize(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.For, _visit), order="post"))


def serialize_scalar_lets() -> tvm.transform.Pass:
    """The pass: to be run before loops are vectorized.

    `VectorizeLoop` visits the body of a Let twice if its value does not depend on the loop (as in an activation of
    one number a channel, spread over a row), and a Let in there then fails an internal check. Such a loop is left to
    LLVM's vectorizer.
    """
    return _serialize


def _visit(loop: tirx.For) -> tirx.For:
    if loop.kind != tirx.ForKind.VECTORIZED:
        return loop
    lets = _lets_in(loop.body)
    depending = [loop.loop_var]
    fresh = lets
    while fresh:
        fresh = [let for let in lets if not _uses(let.var, depending) and _uses(let.value, depending)]
        depending += [let.var for let in fresh]
    scalar = [let for let in lets if not _uses(let.value, depending)]
    if not any(len(_lets_in(let)) > 1 for let in scalar):
        return loop
    return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body, annotations=loop.annotations)


def _lets_in(node: Any) -> list[tirx.Let]:
    found: list[tirx.Let] = []
    tvm_ffi.structural_walk(node, (tirx.Let, found.append))
    return found


def _uses(expr: Any, variables: list[Any]) -> bool:
    return any(var.same_as(free) for free in tirx.analysis.undefined_vars(expr) for var in variables)
