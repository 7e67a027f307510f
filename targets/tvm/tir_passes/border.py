"""Splitting of a loop over a padded row where the padding begins and ends, so that no part needs a test.

In a loop that carries the annotation

    for x in range(n): store[x] = if_then_else(rows and x >= low and x < high, data[x - low], fill)

the conditions on `x` become the bounds of three loops (fill, copy, fill), and the others are tested once before the
copy. LLVM makes wide moves of each; the loop with its test becomes masked loads, and gathers where the row is read in
strides. Bounds may be symbolic, and several conditions may bound one side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, sym, tirx

BORDER = "graphopt_border"
"""The annotation of a serial loop whose variable decides an `if_then_else`."""


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.SplitBorder")
def _split(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.For, _visit), order="post"))


def split_border() -> tvm.transform.Pass:
    """Return the pass; to be run on lowered loops, before they are vectorized."""
    return _split


@dataclass(frozen=True)
class _Choice:
    """The condition of a loop: true for `low <= x < high`, as far as it depends on x, if all of `rest` hold."""

    condition: Any
    low: Any
    high: Any
    rest: tuple[Any, ...]


def _visit(loop: tirx.For) -> tirx.Stmt:
    if not loop.annotations or BORDER not in loop.annotations:
        return loop
    kept = {key: value for key, value in loop.annotations.items() if key != BORDER}
    plain = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, loop.body, annotations=kept)
    choice = _choice(loop) if loop.kind == tirx.ForKind.SERIAL else None
    if choice is None:
        return plain
    end = loop.min + loop.extent
    fill = _chosen(loop.body, choice.condition, 2)
    copy = _part(plain, choice.low, choice.high, _chosen(loop.body, choice.condition, 1))
    if choice.rest and copy is not None:
        copy = tirx.IfThenElse(tirx.all(*choice.rest), copy, _part(plain, choice.low, choice.high, fill))
    parts = [_part(plain, loop.min, choice.low, fill), copy, _part(plain, choice.high, end, fill)]
    parts = [part for part in parts if part is not None]
    return parts[0] if len(parts) == 1 else tirx.SeqStmt(parts)


def _part(loop: tirx.For, low: Any, high: Any, body: tirx.Stmt) -> tirx.Stmt | None:
    """Return `body` for `low <= x < high`, with new variables; None if that is empty."""
    extent = sym.Analyzer().simplify(high - low)
    if isinstance(extent, tirx.IntImm) and int(extent) <= 0:
        return None
    var = tirx.Var(loop.loop_var.name, str(loop.loop_var.ty.dtype))
    renewed = tvm.s_tir.renew_defs(tirx.PrimFunc([], body)).body
    renewed = tvm_ffi.structural_map(
        renewed, (tirx.Var, lambda v: low + var if v.same_as(loop.loop_var) else v), order="post"
    )
    return tirx.For(var, tirx.const(0, str(loop.loop_var.ty.dtype)), extent, loop.kind, renewed)


def _chosen(body: tirx.Stmt, condition: Any, branch: int) -> tirx.Stmt:
    """Return `body` with one branch in place of every `if_then_else` of `condition` (1: true, 2: false)."""

    def choose(call: ir.Call) -> Any:
        decided = _is_if(call) and tvm_ffi.structural_equal(call.args[0], condition)
        return call.args[branch] if decided else call

    return tvm_ffi.structural_map(body, (ir.Call, choose), order="post")


def _is_if(call: ir.Call) -> bool:
    return getattr(call.op, "name", "").endswith(".if_then_else")


def _choice(loop: tirx.For) -> _Choice | None:
    """Return the one condition in the loop's body that its variable decides; None if there is not exactly one."""
    calls: list[Any] = []
    inner: list[Any] = []
    tvm_ffi.structural_walk(loop.body, [(ir.Call, calls.append), (tirx.For, lambda f: inner.append(f.loop_var))])
    conditions = [call.args[0] for call in calls if _is_if(call) and _uses(call.args[0], [loop.loop_var])]
    if not conditions or any(not tvm_ffi.structural_equal(c, conditions[0]) for c in conditions[1:]):
        return None
    begin, end = loop.min, loop.min + loop.extent
    low, high, rest = begin, end, []
    for test in _conjuncts(conditions[0]):
        if _is_loaded(test) or _uses(test, inner):
            return None
        if not _uses(test, [loop.loop_var]):
            rest.append(test)
            continue
        bound = _bound(test, loop.loop_var)
        if bound is None:
            return None
        if bound[0]:
            low = tirx.max(low, bound[1])
        else:
            high = tirx.min(high, bound[1])
    analyzer = sym.Analyzer()
    low = analyzer.simplify(tirx.min(low, end))
    high = analyzer.simplify(tirx.max(tirx.min(high, end), low))
    return _Choice(conditions[0], low, high, tuple(rest))


def _conjuncts(condition: Any) -> list[Any]:
    if isinstance(condition, tirx.And):
        return [*_conjuncts(condition.a), *_conjuncts(condition.b)]
    return [condition]


def _bound(test: Any, var: tirx.Var) -> tuple[bool, Any] | None:
    """Return `test` as (True, first x that passes) or (False, first x that fails); None for any other test."""
    less = isinstance(test, tirx.LT | tirx.LE)
    if not less and not isinstance(test, tirx.GT | tirx.GE):
        return None
    strict = isinstance(test, tirx.LT | tirx.GT)
    linear = sym.detect_linear_equation(test.a - test.b, [var])
    if len(linear) != 2 or not isinstance(linear[0], tirx.IntImm) or int(linear[0]) == 0:
        return None
    factor, offset = int(linear[0]), linear[1]
    if factor < 0:
        factor, offset, less = -factor, tirx.const(0, str(var.ty.dtype)) - offset, not less
    # factor * x + offset < 0 (or <=, >, >=): x up to or from the quotient, rounded to the passing side.
    quotient = tirx.const(0, str(var.ty.dtype)) - offset
    if less == strict:  # x < q stops at, and x >= q starts at, the quotient rounded up
        return not less, tirx.floordiv(quotient + (factor - 1), tirx.const(factor, str(var.ty.dtype)))
    return not less, tirx.floordiv(quotient, tirx.const(factor, str(var.ty.dtype))) + 1


def _uses(expr: Any, variables: list[Any]) -> bool:
    seen: list[tirx.Var] = []
    tvm_ffi.structural_walk(expr, [(tirx.Var, seen.append)])
    return any(var.same_as(v) for var in variables for v in seen)


def _is_loaded(expr: Any) -> bool:
    """Return whether `expr` depends on memory."""
    loads: list[Any] = []
    tvm_ffi.structural_walk(expr, (ir.TensorLoad, loads.append))
    return bool(loads)
