"""Replaces what LLVM would not vectorize, or what forgets NaN, in scheduled functions.

LLVM has no vector exp, tanh, erf or log of its own: TVM's calls become one libm call per element. fp16 goes through
float32; float64 keeps libm. TVM's own max(a, b) is `a > b ? a : b`, which forgets a NaN in `a`; ONNX operators pass it
on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import ir, tirx

from graphopt.targets.tvm.kernels.common import math, trigonometry

Expr = Any


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger of two; NaN if either is."""
    return math.let(a, lambda a: math.let(b, lambda b: tirx.Select(tirx.Or(a > b, tirx.isnan(a)), a, b)))


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller of two; NaN if either is."""
    return math.let(a, lambda a: math.let(b, lambda b: tirx.Select(tirx.Or(a < b, tirx.isnan(a)), a, b)))


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


def _expand_call(call: ir.Call) -> Expr:
    name = getattr(call.op, "name", "")
    if name == "tirx.nearbyint" and str(call.ty.dtype) == "float64":
        return math.nearest(call.args[0])
    make = FUNCTIONS.get(name)
    if make is None:
        return call
    dtype = str(call.ty.dtype)
    if dtype == "float32":
        return make(call.args[0])
    if dtype in ("float16", "bfloat16"):
        return make(call.args[0].astype("float32")).astype(dtype)
    return call


def _is_float(value: Expr) -> bool:
    return str(value.ty.dtype).startswith(("float", "bfloat"))


def expand_functions(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` with elementary functions of float32 and fp16 replaced by polynomials."""
    return func.with_body(tvm_ffi.structural_map(func.body, (ir.Call, _expand_call), order="post"))


def keep_nan(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` with every floating-point max and min passing NaN on."""
    kinds = [
        (tirx.Max, lambda node: maximum(node.a, node.b) if _is_float(node.a) else node),
        (tirx.Min, lambda node: minimum(node.a, node.b) if _is_float(node.a) else node),
    ]
    return func.with_body(tvm_ffi.structural_map(func.body, kinds, order="post"))
