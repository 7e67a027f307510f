"""An estimate of the size of a scheduled function's code, before code generation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx

from graphopt.targets.tvm.kernels.common.expand import FUNCTIONS

FUNCTION = 20
"""The number of operations of an elementary function, about those of its polynomial."""

_OPERATIONS = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min, tirx.Select, tirx.Cast, ir.TensorLoad)
_FUNCTIONS = (FUNCTIONS.keys() | {"tirx.pow"}) - {"tirx.nearbyint"}  # rounding is one instruction


def code_size(func: tirx.PrimFunc) -> int:
    """Return the operations in the code of `func`, with those in an unrolled loop counted for each iteration.

    Vector operations count like scalar ones. The time of code generation is proportional: some 10,000 operations take a
    second.
    """
    return _of_statement(func.body)


def _of_statement(statement: tirx.Stmt) -> int:
    total = sum(_of_statement(part) for part in _parts(statement))
    if isinstance(statement, tirx.BufferStore):
        total += 1 + _of_expression(statement.value)
    if isinstance(statement, tirx.For) and statement.kind == tirx.ForKind.UNROLLED:
        times = int(statement.extent) if isinstance(statement.extent, tirx.IntImm) else 1
        return total * times
    return total


def _parts(statement: tirx.Stmt) -> Iterator[tirx.Stmt]:
    """Return the statements that a statement consists of."""
    if isinstance(statement, tirx.SeqStmt):
        yield from statement
    elif isinstance(statement, tirx.IfThenElse):
        yield statement.then_case
        if statement.else_case is not None:
            yield statement.else_case
    elif isinstance(statement, s_tir.SBlockRealize):
        block = statement.block
        yield block.body
        if block.init is not None:
            yield block.init
    elif isinstance(body := getattr(statement, "body", None), tirx.Stmt):
        yield body


def _of_expression(value: Any) -> int:
    total = 0

    def count(_: Any) -> None:
        nonlocal total
        total += 1

    def call(node: ir.Call) -> None:
        nonlocal total
        total += FUNCTION if getattr(node.op, "name", "") in _FUNCTIONS else 1

    tvm_ffi.structural_walk(value, [(_OPERATIONS, count), (ir.Call, call)])
    return total
