"""Hoisting of the index arithmetic of open sizes to the outermost loop that determines it.

With known sizes, an index is a few additions and shifts. With open ones, it contains products of sizes and divisions by
them, and every access of an unrolled tile repeats it: LLVM would find all common subexpressions, but takes a quarter of
a minute for a matmul of three open sizes. Here each such expression is computed at the beginning of the loop, or of the
branch, on whose variables it depends, but inside the parallel loop.

Results are stored in buffers that LLVM turns into registers. A variable (`Bind`) would not work: TVM's analyses
substitute its value, up to code generation, and what is computed in small steps becomes a tree that grows
exponentially.

A hoisted division may be executed where it was not before, such as before a loop of no iterations: a divisor of zero is
replaced by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import ir, tirx

from graphopt.targets.tvm.tir_passes.expressions import operands_of, rebuilt
from graphopt.targets.tvm.tir_passes.stack import on_stack

Expr = Any

WORTH_MOVING = 2
"""The number of operations from which an expression is hoisted out of a loop."""
WORTH_SHARING = 6
"""Operations from which an expression that depends on the innermost loop is bound; its products and quotients are."""

_ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Min, tirx.Max)
_DIVISIONS = (tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod)


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.HoistIndices")
def _hoist(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    buffers = [param for param in func.params if tirx.is_buffer_var(param)]
    if all(isinstance(size, tirx.IntImm) for buffer in buffers for size in buffer.shape):
        return func
    return func.with_body(_Hoisting().inside(func.body))


def hoist_indices() -> tvm.transform.Pass:
    """Return the pass. It must run after all simplifiers, which would substitute values for variables again."""
    return _hoist


@dataclass
class _Scope:
    """The body of a loop, or of a statement that is executed conditionally."""

    results: dict[int, Expr] = field(default_factory=dict)
    """What has been computed here, by its number."""
    statements: list[tirx.Stmt] = field(default_factory=list)


@dataclass(frozen=True)
class _Index:
    """An integer scalar: the depth of the innermost scope that it depends on, its operations, its number."""

    depth: int
    operations: int
    number: int


@dataclass
class _Hoisting:
    scopes: list[_Scope] = field(default_factory=list)
    outermost: int = 0
    """The depth of the scope that becomes a function of its own: it shares no register with what surrounds it."""
    depths: dict[int, int] = field(default_factory=dict)
    """Where variables of loops are defined; all others are sizes, known from the beginning, or in `unknown`."""
    unknown: set[int] = field(default_factory=set)
    numbers: dict[Any, int] = field(default_factory=dict)
    alive: list[Any] = field(default_factory=list)

    # --- statements

    def inside(self, body: tirx.Stmt, loop_var: tirx.Var | None = None, apart: bool = False) -> tirx.Stmt:
        """Return a statement as a separate scope, with what is computed at its beginning; `apart`, as a function."""
        scope, surrounding = _Scope(), self.outermost
        self.scopes.append(scope)
        depth = len(self.scopes) - 1
        self.outermost = depth if apart else surrounding
        if loop_var is not None:
            self.depths[hash(loop_var)] = depth
            self.alive.append(loop_var)
        body = self.statement(body)
        self.scopes.pop()
        self.outermost = surrounding
        return tirx.SeqStmt([*scope.statements, body]) if scope.statements else body

    def statement(self, statement: tirx.Stmt) -> tirx.Stmt:
        if isinstance(statement, tirx.SeqStmt):
            return tirx.SeqStmt([self.statement(part) for part in statement])
        if isinstance(statement, tirx.For):
            first, extent = self.expression(statement.min), self.expression(statement.extent)
            parallel = statement.kind == tirx.ForKind.PARALLEL
            body = self.inside(statement.body, statement.loop_var, parallel)
            return tirx.For(
                statement.loop_var,
                first,
                extent,
                statement.kind,
                body,
                statement.thread_binding,
                statement.annotations,
                statement.step,
            )
        if isinstance(statement, tirx.IfThenElse):
            otherwise = None if statement.else_case is None else self.inside(statement.else_case)
            return tirx.IfThenElse(self.expression(statement.condition), self.inside(statement.then_case), otherwise)
        if isinstance(statement, tirx.BufferStore):
            indices = [self.expression(index) for index in statement.indices]
            return tirx.BufferStore(statement.buffer, self.expression(statement.value), indices)
        if isinstance(statement, tirx.AttrStmt):
            return tirx.AttrStmt(
                statement.node, statement.attr_key, statement.value, self.inside(statement.body, apart=True)
            )
        if isinstance(statement, tirx.Evaluate):
            return tirx.Evaluate(self.expression(statement.value))
        if isinstance(statement, tirx.Bind):
            self.unknown.add(hash(statement.var))
            self.alive.append(statement.var)
        return statement

    # --- expressions

    def expression(self, expr: Expr) -> Expr:
        """Return the expression with variables for what can be computed earlier."""
        made, index = self._visit(expr)
        return made if index is None else self._bound(made, index, WORTH_SHARING)

    def _visit(self, expr: Expr) -> tuple[Expr, _Index | None]:
        """Return an expression with its operands replaced, and its facts if it is an index."""
        if isinstance(expr, tirx.IntImm):
            return expr, _Index(0, 0, self._number(("constant", str(expr.ty), int(expr.value))))
        if isinstance(expr, tirx.Var):
            if hash(expr) in self.unknown or not _is_index(expr):
                return expr, None
            self.alive.append(expr)
            return expr, _Index(self.depths.get(hash(expr), 0), 0, self._number(("variable", hash(expr))))
        operands = _operands(expr)
        if not operands:
            return expr, None
        visited = [self._visit(operand) for operand in operands]
        if _is_index(expr) and isinstance(expr, (*_ARITHMETIC, *_DIVISIONS, tirx.Cast)):
            known = [index for _, index in visited if index is not None]
            if len(known) == len(visited):
                return self._combined(expr, [made for made, _ in visited], known)
        return _rebuilt(expr, [m if i is None else self._bound(m, i, WORTH_SHARING) for m, i in visited]), None

    def _combined(self, expr: Expr, operands: list[Expr], known: list[_Index]) -> tuple[Expr, _Index]:
        """Return an index made of indices; those that depend on fewer loops are bound where they belong."""
        depth = max(index.depth for index in known)
        operands = [
            self._bound(operand, index, WORTH_MOVING) if index.depth < depth else operand
            for operand, index in zip(operands, known, strict=True)
        ]
        key = (type(expr).__name__, str(expr.ty), *(index.number for index in known))
        inside = sum(index.operations for index in known if index.depth == depth)
        index = _Index(depth, 1 + inside, self._number(key))
        made = _rebuilt(expr, operands)
        if isinstance(expr, tirx.Add | tirx.Sub | tirx.Cast) or any(isinstance(part, tirx.IntImm) for part in operands):
            return made, index
        return self._bound(made, index, 1), _Index(depth, 0, index.number)

    def _bound(self, expr: Expr, index: _Index, worth: int) -> Expr:
        """Return the variable of an index that was computed before, or the index itself if that is not worth it."""
        depth = max(index.depth, self.outermost)
        scope = self.scopes[depth]
        if index.number in scope.results:
            return scope.results[index.number]
        worth = worth if depth == len(self.scopes) - 1 else min(worth, WORTH_MOVING)
        if isinstance(expr, ir.TensorLoad) or index.operations < worth:
            return expr
        buffer = tirx.decl_buffer([1], str(expr.ty.dtype), "index", scope="local", layout=None)
        place = [tirx.const(0, "int32")]
        scope.statements += [on_stack(tirx.AllocBuffer(buffer)), tirx.BufferStore(buffer, _safe(expr), place)]
        scope.results[index.number] = tirx.BufferLoad(buffer, place)
        return scope.results[index.number]

    def _number(self, key: Any) -> int:
        return self.numbers.setdefault(key, len(self.numbers))


def _is_index(expr: Expr) -> bool:
    return str(getattr(expr.ty, "dtype", "")) in ("int32", "int64")


def _operands(expr: Expr) -> list[Expr]:
    """Return the operands of an expression that may be replaced."""
    if isinstance(expr, tirx.Ramp):
        return [expr.base]
    if isinstance(expr, tirx.Broadcast):
        return [expr.value]
    if isinstance(expr, ir.Call):
        return list(expr.args)
    return operands_of(expr) or []


def _rebuilt(expr: Expr, operands: Sequence[Expr]) -> Expr:
    if isinstance(expr, tirx.Ramp):
        return tirx.Ramp(operands[0], expr.stride, expr.lanes)
    if isinstance(expr, tirx.Broadcast):
        return tirx.Broadcast(operands[0], expr.lanes)
    return rebuilt(expr, list(operands))


def _safe(expr: Expr) -> Expr:
    """Return the expression with divisions that cannot fail."""
    if isinstance(expr, tirx.Var | tirx.IntImm | ir.TensorLoad):
        return expr
    operands = [_safe(operand) for operand in _operands(expr)]
    if isinstance(expr, _DIVISIONS) and not isinstance(operands[1], tirx.IntImm):
        one, zero = (tirx.const(number, str(operands[1].ty.dtype)) for number in (1, 0))
        operands[1] = tirx.Select(tirx.EQ(operands[1], zero), one, operands[1])
    return rebuilt(expr, operands)
