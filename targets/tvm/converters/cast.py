"""Conversions between element types."""

from __future__ import annotations

from tvm import tirx

from graphopt.targets.tvm.converters.tensors import elementwise
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Operand
from graphopt.targets.tvm.lowering.registry import Declined, converter

_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64, "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64}


def convert(x: tirx.Expr, to: str) -> tirx.Expr:
    """Convert one element as C and ONNX do: rounding towards zero, and any nonzero value is true."""
    kind = str(x.ty.dtype)
    if kind == to:
        return x
    if to == "bool":
        if "float" not in kind:
            return tirx.NE(x, tirx.const(0, kind))
        wide = x.astype("float32") if "float16" in kind else x
        return tirx.Or(tirx.NE(wide, tirx.const(0, wide.ty.dtype)), tirx.isnan(wide))  # LLVM's != is false for NaN
    if kind.startswith(("float", "bfloat")) and to in _BITS:
        return _float_to_integer(x.astype("float32") if "float16" in kind else x, to)
    if "bfloat16" in (kind, to) and "float32" not in (kind, to):
        return x.astype("float32").astype(to)
    return x.astype(to)


def _float_to_integer(x: tirx.Expr, to: str) -> tirx.Expr:
    """Convert a float to an integer as ONNX Runtime does on x86, also where C leaves the result undefined.

    Narrow types are the low bits of an int32, uint32 those of an int64. NaN and what an int32 or int64 cannot hold is
    its lowest number; a uint64 wraps below 0.
    """
    if _BITS[to] < 32 or to == "int32":
        return x.astype("int32").astype(to)
    if to != "uint64":
        return x.astype("int64").astype(to)
    kind = str(x.ty.dtype)
    half = tirx.const(2.0**63, kind)
    upper = (x - half).astype("int64") ^ tirx.min_value("int64")
    return tirx.Select(x >= half, upper, x.astype("int64")).astype(to)


def cast_to(ctx: Context, data: Operand, to: str) -> Operand:
    """The operand with elements of type `to`."""
    ctx.check_dtype(data.dtype)
    ctx.check_dtype(to)
    if data.dtype == to:
        return data
    if data.is_constant and to == "float32" and data.dtype in ("float16", "bfloat16"):
        made = data.derived([int(size) for size in data.shape], (to,), lambda array: array.astype(to), dtype=to)
        made.narrow = data
        return made
    made = elementwise(ctx, lambda x: convert(x, to), [data], to, "cast")
    if data.dtype == "bfloat16" and to == "float32":
        made.narrow = data
    return made


@converter("Cast")
def cast(c: Call) -> Operand:
    return cast_to(c.ctx, c[0], c.dtype_attr("to"))


@converter("CastLike")
def cast_like(c: Call) -> Operand:
    return cast_to(c.ctx, c[0], c[1].dtype)


@converter("BitCast")
def bit_cast(c: Call) -> Operand:
    to = c.dtype_attr("to")
    c.ctx.check_dtype(to)
    if "bool" in (to, c[0].dtype):
        raise Declined("reinterpreting booleans")
    return elementwise(c.ctx, lambda x: tirx.reinterpret(to, x), [c[0]], to, "bitcast")
