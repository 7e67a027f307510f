"""Conversions between float32 and bfloat16, written out in the bits of both.

TVM computes bfloat16 in float32 and drops the conversions between: a sum in bfloat16 would be rounded where it is
stored, and not where its kernel is fused with the next. ONNX rounds to the nearest value, halves to the even one.

A `let` keeps the bits of a bfloat16: TVM would make a float32 of a call's result, and then look for its 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, tirx

from graphopt.targets.tvm.tir_passes import bfloat16_instructions, let

_QUIET = 0x0040  # the bit that keeps a NaN a NaN when its lower bits are cut off
_INFINITY = 0x7F800000


def round_to_bfloat16() -> tvm.transform.Pass:
    """Return the pass. It must run before TVM's `BF16ComputeLegalize`."""
    return _round


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.RoundToBfloat16")
def _round(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    narrow = _by_instruction if bfloat16_instructions.are_rounded_by(func) else _narrow
    kinds = [(tirx.Cast, lambda cast: _visit(cast, narrow)), (ir.Call, _visit_let)]
    return func.with_body(tvm_ffi.structural_map(func.body, kinds, order="post"))


def only_bits() -> tvm.transform.Pass:
    """Return the last passes, after which every bfloat16 is a uint16.

    The bits are repeated in all lanes of a vector, because TVM's `BF16StorageLegalize` does not look into `Broadcast`.
    """
    store = tirx.transform.BF16StorageLegalize()
    return tvm.transform.Sequential([_broadcast, store, bfloat16_instructions.define_called()])


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.BroadcastBits")
def _broadcast(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.Broadcast, _visit_broadcast), order="post"))


def _visit_broadcast(repeated: tirx.Broadcast) -> Any:
    if not _is_bfloat16(repeated.value):
        return repeated
    return tirx.reinterpret(str(repeated.ty.dtype), tirx.Broadcast(_bits(repeated.value), repeated.lanes))


def _visit(cast: tirx.Cast, narrow: Callable[[ir.Expr], ir.Expr]) -> Any:
    source, target = str(cast.value.ty.dtype), str(cast.ty.dtype)
    if (source, target) == ("float32", "bfloat16"):
        return narrow(cast.value)
    if (source, target) == ("bfloat16", "float32"):
        bits = _bits(cast.value).astype("uint32")
        return tirx.reinterpret("float32", bits << tirx.const(16, "uint32"))
    return cast


def _by_instruction(value: ir.Expr) -> ir.Expr:
    return _of_bits(bfloat16_instructions.rounded(value))


def _narrow(value: ir.Expr) -> ir.Expr:
    """The upper half of the bits, rounded to nearest even; a carry into the exponent is what rounding up asks for."""
    return _of_bits(let.let(tirx.reinterpret("uint32", value), _upper_half))


def _upper_half(bits: ir.Expr) -> ir.Expr:
    upper = bits >> tirx.const(16, "uint32")
    rounded = (bits + (tirx.const(0x7FFF, "uint32") + (upper & tirx.const(1, "uint32")))) >> tirx.const(16, "uint32")
    is_nan = (bits & tirx.const(0x7FFFFFFF, "uint32")) > tirx.const(_INFINITY, "uint32")
    chosen = tirx.Select(is_nan, upper | tirx.const(_QUIET, "uint32"), rounded)
    return chosen.astype("uint16")


def _visit_let(call: ir.Call) -> Any:
    if let.is_read(call) and _is_bfloat16(call):
        return _of_bits(tirx.call_intrin("uint16", call.op, *call.args))
    if let.is_let(call):
        number, value, body = call.args
        if _is_bfloat16(body):
            return _of_bits(tirx.call_intrin("uint16", call.op, number, _bits(value), _bits(body)))
        if _is_bfloat16(value):
            return tirx.call_intrin(str(call.ty.dtype), call.op, number, _bits(value), body)
    return call


def _is_bfloat16(value: ir.Expr) -> bool:
    return str(value.ty.dtype) == "bfloat16"


def _bits(value: ir.Expr) -> ir.Expr:
    return tirx.reinterpret("uint16", value) if _is_bfloat16(value) else value


def _of_bits(bits: ir.Expr) -> ir.Expr:
    return tirx.reinterpret("bfloat16", bits)
