"""Instructions on bfloat16, as functions in LLVM's own language.

TVM's code generator has no bfloat16: it stores the bits as uint16, and cannot name the types of LLVM's intrinsics. So
these are called by functions in LLVM's language, which take and return the bits. `define_called` adds those that a
kernel calls to its module; they are inlined and leave nothing else behind.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import ir, tirx

from graphopt.targets.tvm.machine import machine_of

_DOTS = {
    ("dpbf16ps", 16): "llvm.x86.avx512bf16.dpbf16ps.512",
    ("dpbf16ps", 8): "llvm.x86.avx512bf16.dpbf16ps.256",
    ("dpbf16ps", 4): "llvm.x86.avx512bf16.dpbf16ps.128",
    ("bfdot", 4): "llvm.aarch64.neon.bfdot.v4f32.v8bf16",
}
"""LLVM's intrinsics that add to each float of a vector two products of bfloat16, by instruction and lanes."""

_PREFIX = "graphopt_bfloat16_"
_ROUND = "graphopt.round_to_bfloat16"
ir.register_op_attr(_ROUND, "TCallEffectKind", int(tirx.CallEffectKind.Pure.value))
ir.register_op_attr(_ROUND, "TScriptPrinterName", _ROUND)
ir.register_op_attr(_ROUND, "TVectorizable", True)

_DOT_TEXT = """
define linkonce_odr hidden <{n} x float> @{name}(<{n} x float> %sums, <{m} x i16> %a, <{m} x i16> %b) alwaysinline {{
  %x = bitcast <{m} x i16> %a to <{m} x bfloat>
  %y = bitcast <{m} x i16> %b to <{m} x bfloat>
  %r = call <{n} x float> @{intrinsic}(<{n} x float> %sums, <{m} x bfloat> %x, <{m} x bfloat> %y)
  ret <{n} x float> %r
}}
declare <{n} x float> @{intrinsic}(<{n} x float>, <{m} x bfloat>, <{m} x bfloat>)
"""

_ROUND_TEXT = """
define linkonce_odr hidden {bits} @{name}({floats} %x) alwaysinline {{
  %r = fptrunc {floats} %x to {rounded}
  %b = bitcast {rounded} %r to {bits}
  ret {bits} %b
}}
"""


def has_dot(instruction: str, lanes: int) -> bool:
    """Return whether there is an instruction of this name ("dpbf16ps", "bfdot") for that many sums."""
    return (instruction, lanes) in _DOTS


def dot(instruction: str, lanes: int, sums: Any, weights: Any, data: Any) -> Any:
    """Return `sums` plus, in each of `lanes`, the products of two bfloat16, given by their bits (uint16)."""
    return tirx.call_pure_extern(f"float32x{lanes}", f"{_PREFIX}{instruction}_{lanes}", sums, weights, data)


def rounded(value: ir.Expr) -> ir.Expr:
    """Return the bits of a float32 rounded to bfloat16, by an instruction."""
    return tirx.call_intrin("uint16", ir.Op.get(_ROUND), value)


def are_rounded_by(func: tirx.PrimFunc) -> bool:
    """Return whether the processor that a function is compiled for has the instruction of `rounded`."""
    target = func.attrs["target"] if func.attrs is not None and "target" in func.attrs else None
    return target is not None and target.kind.name == "llvm" and "bf16" in machine_of(target).instructions


def define_called() -> tvm.transform.Pass:
    """Return the pass that defines the functions that are called; it must be the last one before code is generated."""
    return _define


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.DefineBfloat16Functions")
def _define(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    found: dict[str, str] = {}

    def visit(call: ir.Call) -> ir.Call:
        name = getattr(call.op, "name", "")
        if name == _ROUND:
            lanes = tvm.DataType(str(call.ty.dtype)).lanes
            symbol = f"{_PREFIX}round_{lanes}"
            found[symbol] = _round_text(symbol, lanes)
            return tirx.call_pure_extern(str(call.ty.dtype), symbol, *call.args)
        if name == "tirx.call_pure_extern" and str(call.args[0].value).startswith(_PREFIX):
            found[str(call.args[0].value)] = _dot_text(str(call.args[0].value))
        return call

    body = tvm_ffi.structural_map(func.body, (ir.Call, visit), order="post")
    for text in found.values():
        body = tirx.AttrStmt(ir.StringImm(""), "pragma_import_llvm", ir.StringImm(text), body)
    return func.with_body(body) if found else func


def _dot_text(symbol: str) -> str:
    instruction, lanes = symbol.removeprefix(_PREFIX).rsplit("_", 1)
    intrinsic = _DOTS[instruction, int(lanes)]
    return _DOT_TEXT.format(name=symbol, intrinsic=intrinsic, n=int(lanes), m=2 * int(lanes))


def _round_text(symbol: str, lanes: int) -> str:
    bits, floats, kind = (f"<{lanes} x {one}>" if lanes > 1 else one for one in ("i16", "float", "bfloat"))
    return _ROUND_TEXT.format(name=symbol, bits=bits, floats=floats, rounded=kind)
