"""Named values inside expressions, which TVM's simplifiers leave alone.

TVM has `tirx.Let`, but each of its simplifiers substitutes the value for the variable again: a value that is used twice
at each of n steps is computed 2 ** n times. To them `graphopt.let(number, value, body)` is a call like any other, and
`graphopt.value(number)` in its body represents `value`. `bind_values` turns both into code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import ir, tirx

Expr = Any

_LET, _VALUE = "graphopt.let", "graphopt.value"
for _name in (_LET, _VALUE):
    ir.register_op_attr(_name, "TCallEffectKind", int(tirx.CallEffectKind.Pure.value))
    ir.register_op_attr(_name, "TScriptPrinterName", _name)

_NUMBERS = itertools.count()


def reference(dtype: str) -> ir.Call:
    """Return a read of a value that has no number yet, for `let_as`."""
    return tirx.call_intrin(dtype, _VALUE, tirx.IntImm("int32", next(_NUMBERS)))


def let_as(read: ir.Call, value: Expr, body: Expr) -> ir.Call:
    """Return `body`, in which `read` stands for `value`."""
    return tirx.call_intrin(str(body.ty.dtype), _LET, read.args[0], value, body)


def let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """Return `body` of `value`, which is computed once."""
    read = reference(str(value.ty.dtype))
    return let_as(read, value, body(read))


def is_let(expr: Expr) -> bool:
    """Return whether this is `graphopt.let(number, value, body)`."""
    return isinstance(expr, ir.Call) and getattr(expr.op, "name", "") == _LET


def is_read(expr: Expr) -> bool:
    """Return whether this is `graphopt.value(number)`."""
    return isinstance(expr, ir.Call) and getattr(expr.op, "name", "") == _VALUE


def number_of(expr: ir.Call) -> int:
    """Return the number that a let and the reads of its value have in common."""
    return int(expr.args[0])


def holds_let(node: Any) -> bool:
    """Return whether there is a let anywhere in an expression or statement."""
    found: list[bool] = []
    tvm_ffi.structural_walk(node, (ir.Call, lambda call: found.append(True) if is_let(call) else None))
    return bool(found)


def reads_of(expr: Expr) -> list[ir.Call]:
    """Return the reads in an expression, of lets inside or around it."""
    found: list[ir.Call] = []
    tvm_ffi.structural_walk(expr, (ir.Call, lambda call: found.append(call) if is_read(call) else None))
    return found


def replace_reads(expr: Expr, values: dict[int, Expr]) -> Expr:
    """Return `expr` with the reads of these numbers replaced."""

    def replaced(call: ir.Call) -> Expr:
        return values.get(number_of(call), call) if is_read(call) else call

    return tvm_ffi.structural_map(expr, (ir.Call, replaced), order="post")


def written_out(node: Any) -> Any:
    """Return `node` with every read replaced by its value, which is then computed for each read."""

    def replaced(call: ir.Call) -> Expr:
        return replace_reads(call.args[2], {number_of(call): call.args[1]}) if is_let(call) else call

    return tvm_ffi.structural_map(node, (ir.Call, replaced), order="post")
