"""The kinds of expressions: their operands, what tells them apart, and how to build one with other operands."""

from __future__ import annotations

from typing import Any

from tvm import ir, tirx
from tvm.ir import prim

from graphopt.targets.tvm.tir_passes import exact

Expr = Any

_BINARY = (
    tirx.Add,
    tirx.Sub,
    tirx.Mul,
    tirx.Div,
    tirx.Mod,
    tirx.FloorDiv,
    tirx.FloorMod,
    tirx.Min,
    tirx.Max,
    tirx.EQ,
    tirx.NE,
    tirx.LT,
    tirx.LE,
    tirx.GT,
    tirx.GE,
    tirx.And,
    tirx.Or,
    prim.BitwiseAnd,
    prim.BitwiseOr,
    prim.BitwiseXor,
    prim.LShift,
    prim.RShift,
)
_OPERANDS: dict[type, tuple[str, ...]] = {
    **dict.fromkeys(_BINARY, ("a", "b")),
    tirx.Select: ("condition", "true_value", "false_value"),
    tirx.Cast: ("value",),
    tirx.Not: ("a",),
    prim.BitwiseNot: ("a",),
}
"""The attributes with the operands of each kind, looked up by the exact type: kernels have thousands of expressions."""
# fmt: off
_PURE = frozenset({
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "call_llvm_pure_intrin", "ceil", "copysign", "cos",
    "cosh", "erf", "exp", "exp10", "exp2", "fabs", "floor", "fma", "fmod", "if_then_else", "isfinite", "isinf",
    "isnan", "likely", "log", "log10", "log1p", "log2", "nearbyint", "pow", "reinterpret", "round", "rsqrt",
    "sigmoid", "sin", "sinh", "sqrt", "tan", "tanh", "trunc",
})
# fmt: on
"""The calls of TVM that compute a value from values, whatever these are."""


def _name(call: ir.Call) -> str:
    """Return an operator's name without the dialect's."""
    return str(getattr(call.op, "name", "")).rpartition(".")[2]


def is_pure(call: ir.Call) -> bool:
    """Return whether a call computes a value from values, whatever these are."""
    return _name(call) in _PURE or str(getattr(call.op, "name", "")) in exact.CALLS


def is_conditional(expr: Expr) -> bool:
    """Return whether this is an `if_then_else`, of which only the chosen side is evaluated."""
    return isinstance(expr, ir.Call) and _name(expr) == "if_then_else"


def is_choice(expr: Expr) -> bool:
    """Return whether this is the value of one of two sides: both are computed (`Select`), or only one."""
    return isinstance(expr, tirx.Select) or is_conditional(expr)


def operands_of(expr: Expr) -> list[Expr] | None:
    """Return the operands of an expression; None for constants, and for unsupported kinds."""
    names = _OPERANDS.get(type(expr))
    if names is not None:
        return [getattr(expr, name) for name in names]
    if isinstance(expr, ir.TensorLoad):
        return list(expr.indices)
    if isinstance(expr, ir.Call) and is_pure(expr):
        return list(expr.args)
    return None


def rebuilt(expr: Expr, operands: list[Expr]) -> Expr:
    """Return `expr` with other operands."""
    if not operands:
        return expr
    if isinstance(expr, ir.TensorLoad):
        return tirx.BufferLoad(expr.source, operands)
    if isinstance(expr, ir.Call):
        return ir.Call(expr.op, operands, expr.attrs, expr.ty_args, ret_ty=expr.ty)
    if isinstance(expr, tirx.Cast):
        return tirx.Cast(str(expr.ty.dtype), operands[0])
    return type(expr)(*operands)


def label_of(expr: Expr) -> Any:
    """Return what distinguishes expressions with equal operands."""
    if isinstance(expr, ir.TensorLoad):
        return ("load", hash(expr.source))
    if isinstance(expr, ir.Call):
        return (str(expr.op.name), str(expr.ty.dtype))
    return (type(expr).__name__, str(expr.ty.dtype))


def constant_key(expr: Expr) -> Any:
    """Return what distinguishes constants, by all bits of a float: zeros of both signs differ."""
    value = float(expr.value).hex() if isinstance(expr, tirx.FloatImm) else str(expr.value)
    return (type(expr).__name__, str(expr.ty), value)


def is_integer(expr: Expr) -> bool:
    """Return whether the value is an integer or a boolean, or a vector of these."""
    return str(expr.ty.dtype).startswith(("int", "uint", "bool"))


def has_no_register(expr: Expr) -> bool:
    """Return whether it cannot be stored: boolean vectors are no memory, and small floats are stored as integers."""
    return str(expr.ty.dtype).startswith(("bool", "bfloat16", "float8"))
