"""Splitting of the last partial vector from a loop over vectors, so that the others need no test.

TVM's `LoopPartition` does more than that when it is given a hint: it also cuts loops where a `Select` in their body
changes, with bounds that may depend on data, and then runs out of the loop's range (or never ends its search). Here
only one thing is done. In

    for o in range(n): for i in vectorized(L): if base + o * L + i < end: body

the first `full = (end - base) // L` iterations of `o` (at least 0, at most n) need no test; the rest keep it, and the
loop over i becomes serial. `base` and `end` may be symbolic. The loop over i may also be one to be unrolled.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import sym, tirx

PEEL = "graphopt_peel"
"""The annotation of a loop over vectors whose last vector may be partial."""


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.Peel")
def _peel(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.For, _visit), order="post"))


def peel() -> tvm.transform.Pass:
    """Return the pass; to be run on lowered loops, before they are vectorized."""
    return _peel


def _visit(loop: tirx.For) -> tirx.Stmt:
    if not loop.annotations or PEEL not in loop.annotations:
        return loop
    kept = {key: value for key, value in loop.annotations.items() if key != PEEL}
    found = _bound(loop)
    if found is None:
        return _for(loop, loop.min, loop.extent, loop.body, kept)
    base, end, lanes, tested = found
    zero = tirx.const(0, str(loop.extent.ty.dtype))
    full = tirx.max(tirx.min(tirx.floordiv(end - base, lanes), loop.extent), zero)
    full = sym.Analyzer().simplify(full)
    main = _for(loop, zero, full, _without_test(loop.body, loop.loop_var), kept)
    rest_var = tirx.Var(loop.loop_var.name + "_rest", str(loop.loop_var.ty.dtype))
    rest_body = _renewed(loop.body, tested, {loop.loop_var: full + rest_var})
    extent = loop.extent
    if _is_guarded(loop.body, loop.loop_var):  # beyond the partial vector all tests fail
        extent = tirx.min(extent, tirx.max(tirx.floordiv(end - base + (lanes - 1), lanes), zero))
    extent = sym.Analyzer().simplify(extent - full)
    rest = tirx.For(rest_var, zero, extent, tirx.ForKind.SERIAL, rest_body)
    return tirx.SeqStmt([main, rest])


def _for(loop: tirx.For, low: Any, extent: Any, body: tirx.Stmt, annotations: dict[str, Any]) -> tirx.For:
    return tirx.For(loop.loop_var, low, extent, loop.kind, body, annotations=annotations)


def _vector_loops(body: tirx.Stmt) -> dict[Any, int]:
    """Return the loops in `body` that become vectors or are unrolled: variable and extent."""
    found: dict[Any, int] = {}

    def visit(loop: tirx.For) -> None:
        kinds = (tirx.ForKind.VECTORIZED, tirx.ForKind.UNROLLED)
        if loop.kind in kinds and isinstance(loop.extent, tirx.IntImm):
            found[loop.loop_var] = int(loop.extent)

    tvm_ffi.structural_walk(body, (tirx.For, visit))
    return found


def _test(node: tirx.LT, outer: tirx.Var, vectors: dict[Any, int]) -> tuple[Any, Any, int, tirx.Var] | None:
    """Return `node` as (base, end, lanes, variable of the vector) if it tests a partial vector, else None."""
    for var, lanes in vectors.items():
        linear = sym.detect_linear_equation(node.a, [outer, var])
        if len(linear) != 3 or _uses(node.b, outer) or _uses(node.b, var):
            continue
        if all(isinstance(c, tirx.IntImm) for c in linear[:2]) and [int(c) for c in linear[:2]] == [lanes, 1]:
            return linear[2], node.b, lanes, var
    return None


def _uses(expr: Any, var: tirx.Var) -> bool:
    seen: list[tirx.Var] = []
    tvm_ffi.structural_walk(expr, [(tirx.Var, seen.append)])
    return any(var.same_as(v) for v in seen)


def _bound(loop: tirx.For) -> tuple[Any, Any, int, list[tirx.Var]] | None:
    """Return base, end and lanes common to all tests of partial vectors in the loop, and the vectors' variables.

    None if there are none.
    """
    vectors = _vector_loops(loop.body)
    tests: list[tuple[Any, Any, int, tirx.Var]] = []

    def visit(node: tirx.LT) -> None:
        if (test := _test(node, loop.loop_var, vectors)) is not None:
            tests.append(test)

    tvm_ffi.structural_walk(loop.body, (tirx.LT, visit))
    if not tests:
        return None
    first = tests[0]
    same = all(
        t[2] == first[2] and tvm_ffi.structural_equal(t[0], first[0]) and tvm_ffi.structural_equal(t[1], first[1])
        for t in tests
    )
    # `base` and `end` are evaluated before the loop, so they must not depend on anything that the loop defines.
    inside = [var for var in _defined(loop) if _uses(first[0], var) or _uses(first[1], var)]
    return (*first[:3], [test[3] for test in tests]) if same and not inside else None


def _is_guarded(body: tirx.Stmt, outer: tirx.Var) -> bool:
    """Return whether everything in `body` is guarded by a test of a partial vector."""
    vectors = _vector_loops(body)

    def guarded(part: tirx.Stmt) -> bool:
        if isinstance(part, tirx.SeqStmt):
            return all(guarded(one) for one in part)
        if isinstance(part, tirx.For):
            return guarded(part.body)
        if not isinstance(part, tirx.IfThenElse) or part.else_case is not None:
            return False
        return any(isinstance(t, tirx.LT) and _test(t, outer, vectors) is not None for t in conjuncts(part.condition))

    return guarded(body)


def conjuncts(condition: Any) -> list[Any]:
    """Return the conditions that must all hold for `condition` to hold."""
    if isinstance(condition, tirx.And):
        return [*conjuncts(condition.a), *conjuncts(condition.b)]
    return [condition]


def _defined(loop: tirx.For) -> list[tirx.Var]:
    found = [loop.loop_var]
    tvm_ffi.structural_walk(loop.body, (tirx.For, lambda inner: found.append(inner.loop_var)))
    return found


def _without_test(body: tirx.Stmt, outer: tirx.Var) -> tirx.Stmt:
    vectors = _vector_loops(body)
    true = tirx.const(True, "bool")
    return tvm_ffi.structural_map(
        body, (tirx.LT, lambda node: node if _test(node, outer, vectors) is None else true), order="post"
    )


def _renewed(body: tirx.Stmt, tested: list[tirx.Var], replace: dict[Any, Any]) -> tirx.Stmt:
    """Return `body` with variables replaced, the tested loops made serial, and new variables for its definitions."""
    serial = tvm_ffi.structural_map(
        body,
        (
            tirx.For,
            lambda loop: (
                tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)
                if any(loop.loop_var.same_as(var) for var in tested)
                else loop
            ),
        ),
        order="post",
    )
    func = tirx.PrimFunc([], serial)
    renewed = tvm.s_tir.renew_defs(func).body
    return tvm_ffi.structural_map(
        renewed,
        (tirx.Var, lambda var: next((new for old, new in replace.items() if var.same_as(old)), var)),
        order="post",
    )
