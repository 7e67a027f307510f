"""Replacement of what LLVM would not vectorize, or what loses NaN, in scheduled functions.

LLVM has no vector exp, tanh, erf or log of its own: TVM's calls become one libm call per element. fp16 goes through
float32; float64 keeps libm. TVM's own max(a, b) is `a > b ? a : b`, which loses a NaN in `a`; ONNX operators propagate
it.

`keep_special_values` marks operations as soon as a function is scheduled; `expand_functions` expands them late: TVM's
simplifiers take longer for a polynomial than LLVM for a whole kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import ir, tirx

from graphopt.targets.tvm.kernels.common import math, trigonometry
from graphopt.targets.tvm.tir_passes.exact import keep_exact
from graphopt.targets.tvm.tir_passes.let import let

Expr = Any


_MAXIMUM, _MINIMUM, _QUANTIZE = "graphopt.maximum", "graphopt.minimum", "graphopt.quantize"
for _name in (_MAXIMUM, _MINIMUM, _QUANTIZE):
    ir.register_op_attr(_name, "TCallEffectKind", int(tirx.CallEffectKind.Pure.value))
    ir.register_op_attr(_name, "TScriptPrinterName", _name)


def _larger(a: Expr, b: Expr) -> Expr:
    """Return the larger of two; NaN if either is."""
    return let(a, lambda a: let(b, lambda b: tirx.Select(tirx.Or(a > b, tirx.isnan(a)), a, b)))


def _smaller(a: Expr, b: Expr) -> Expr:
    """Return the smaller of two; NaN if either is."""
    return let(a, lambda a: let(b, lambda b: tirx.Select(tirx.Or(a < b, tirx.isnan(a)), a, b)))


FUNCTIONS: dict[str, Callable[[Expr], Expr]] = {
    "tirx.exp": math.exp,
    "tirx.sigmoid": math.sigmoid,
    "tirx.tanh": math.tanh,
    "tirx.cosh": math.cosh,
    "tirx.sinh": math.sinh,
    "tirx.erf": math.erf,
    "tirx.log": math.log,
    "tirx.log1p": math.log1p,
    "tirx.nearbyint": math.nearest,
    "tirx.sin": trigonometry.sin,
    "tirx.cos": trigonometry.cos,
}
"""The elementary functions of float32."""


def keep_special_values(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return `func` with float arithmetic that no simplifier changes, and 16-bit functions computed in float32.

    Maxima and minima propagate NaN.
    """
    kinds = [
        (tirx.Max, lambda node: _with_nan(_MAXIMUM, node)),
        (tirx.Min, lambda node: _with_nan(_MINIMUM, node)),
        (ir.Call, _widened),
        (tirx.Cast, lambda node: _unstored(_quantized(node))),
        (tirx.Sub, _centered),
    ]
    return func.with_body(keep_exact(tvm_ffi.structural_map(func.body, kinds, order="post")))


def _with_nan(name: str, node: Expr) -> Expr:
    dtype = str(node.ty.dtype)
    return tirx.call_intrin(dtype, name, node.a, node.b) if dtype.startswith(("float", "bfloat")) else node


def _quantized(cast: tirx.Cast) -> Expr:
    """Return int32(max(min(nearbyint(x) + zero, high), low)), which QuantizeLinear is, as one call."""
    if str(cast.ty.dtype) != "int32" or _name_of(cast.value) != _MAXIMUM or _name_of(cast.value.args[0]) != _MINIMUM:
        return cast
    (value, high), low = cast.value.args[0].args, cast.value.args[1]
    zero: Expr = tirx.const(0, "float32")
    if isinstance(value, tirx.Add):
        value, zero = value.a, value.b
    if _name_of(value) != "tirx.nearbyint" or str(value.ty.dtype) != "float32":
        return cast
    return tirx.call_intrin("int32", _QUANTIZE, value.args[0], zero, low, high)


def _unstored(expr: Expr) -> Expr:
    """Return float32(q), where q is a QuantizeLinear, without its conversion to a smaller type, which changes nothing.

    A kernel that adds to what it has just quantized has it in registers as int32.
    """
    if not isinstance(expr, tirx.Cast) or str(expr.ty.dtype) != "float32":
        return expr
    value, kinds = expr.value, []
    while isinstance(value, tirx.Cast):
        kinds.append(str(value.ty.dtype))
        value = value.value
    if _name_of(value) != _QUANTIZE or not all(isinstance(limit, tirx.FloatImm) for limit in value.args[2:]):
        return expr
    low, high = (limit.value for limit in value.args[2:])
    kept = all("int" in kind and np.iinfo(kind).min <= low and high <= np.iinfo(kind).max for kind in kinds)
    return value.astype("float32") if kept else expr


def _centered(difference: tirx.Sub) -> Expr:
    """Return float32(q) - z, where q is a QuantizeLinear with the zero point z, without adding that before."""
    cast, zero = difference.a, difference.b
    if not isinstance(cast, tirx.Cast) or str(cast.ty.dtype) != "float32" or _name_of(cast.value) != _QUANTIZE:
        return difference
    value, added, low, high = cast.value.args
    if not tvm_ffi.structural_equal(added, zero):
        return difference
    nothing = tirx.const(0, "float32")
    return tirx.call_intrin("int32", _QUANTIZE, value, nothing, low - zero, high - zero).astype("float32")


def _rounded_within(x: Expr, zero: Expr, low: Expr, high: Expr) -> Expr:
    """Return x rounded to the nearest whole number, plus a whole `zero`, within limits; the lower one for NaN.

    Clamped first, so that the conversion, which rounds, has only numbers in its range: by calls that are single
    instructions where LLVM sees that the limits are numbers, else by comparisons that are.
    """
    least, most = low - zero, high - zero
    if isinstance(low, tirx.FloatImm) and low.value == -np.inf:  # what is narrowed with saturation (`narrow`)
        return let(x, lambda x: _converted(tirx.Select(most < x, most, x))) + zero.astype("int32")
    if isinstance(least, tirx.FloatImm) and isinstance(most, tirx.FloatImm):
        x = tirx.call_llvm_pure_intrin("float32", "llvm.maxnum", x, least)
        x = tirx.call_llvm_pure_intrin("float32", "llvm.minnum", x, most)
        return _converted(x) + zero.astype("int32")

    def above(x: Expr) -> Expr:
        return let(tirx.Select(x > least, x, least), lambda x: _converted(tirx.Select(x < most, x, most)))

    return let(x, above) + zero.astype("int32")


def _converted(x: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin("int32", "llvm.lrint", x)


def _name_of(expr: Expr) -> str:
    return getattr(expr.op, "name", "") if isinstance(expr, ir.Call) else ""


def _widened(call: ir.Call) -> Expr:
    dtype = str(call.ty.dtype) if getattr(call.op, "name", "") in FUNCTIONS else ""
    if dtype not in ("float16", "bfloat16"):
        return call
    return tirx.call_intrin("float32", call.op, call.args[0].astype("float32")).astype(dtype)


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.ExpandFunctions")
def _expand(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    return func.with_body(keep_exact(tvm_ffi.structural_map(func.body, (ir.Call, _expanded), order="post")))


def expand_functions() -> tvm.transform.Pass:
    """Return the pass that replaces elementary functions by polynomials, and what `keep_special_values` marked.

    It must run after all simplifiers that see loops, and before `bind_values`.
    """
    return _expand


def _expanded(call: ir.Call) -> Expr:
    name = getattr(call.op, "name", "")
    if name == _MAXIMUM:
        return _larger(*call.args)
    if name == _MINIMUM:
        return _smaller(*call.args)
    if name == _QUANTIZE:
        return _rounded_within(*call.args)
    dtype = str(call.ty.dtype) if name in FUNCTIONS else ""
    if dtype == "float32":
        return FUNCTIONS[name](call.args[0])
    return math.nearest(call.args[0]) if (name, dtype) == ("tirx.nearbyint", "float64") else call
