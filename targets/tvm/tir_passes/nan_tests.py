"""Comparisons that are correct for NaN, in a form that TVM vectorizes.

TVM's vectorizer scalarizes a loop with a call of `isnan`, and its simplifier turns `x != x` into false. The bits of a
NaN, without the sign, are a larger integer than the bits of infinity.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import ir, tirx

INFINITY = {"float16": 0x7C00, "float32": 0x7F800000, "float64": 0x7FF0000000000000}


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.CompareBitsForNan")
def _compare(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    return func.with_body(tvm_ffi.structural_map(func.body, (ir.Call, _visit), order="post"))


def compare_bits_for_nan() -> tvm.transform.Pass:
    """Return the pass; to be run before loops are vectorized."""
    return _compare


def _visit(call: ir.Call) -> Any:
    kind = str(call.args[0].ty.dtype) if getattr(call.op, "name", "") == "tirx.isnan" else ""
    if kind not in INFINITY:
        return call
    integer = kind.replace("float", "int")
    largest = tirx.const((1 << (tvm.DataType(kind).bits - 1)) - 1, integer)
    return (tirx.reinterpret(integer, call.args[0]) & largest) > tirx.const(INFINITY[kind], integer)


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.UnorderedNotEqual")
def _unordered(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.NE, _not_equal), order="post"))


def unordered_not_equal() -> tvm.transform.Pass:
    """Return the pass that makes `x != y` true where either is NaN: TVM's LLVM code generator makes it false.

    It must run after all simplification, which would bring `!=` back.
    """
    return _unordered


def _not_equal(test: tirx.NE) -> Any:
    return tirx.Not(tirx.EQ(test.a, test.b)) if "float" in str(test.a.ty.dtype) else test
