"""Lets kernels read and write arrays at any address.

TVM promises LLVM that every argument lies at a multiple of 64 bytes. numpy's arrays seldom do: each input would have to
be copied first, or an aligned vector load would end the process. Without the promise LLVM emits loads and stores that
take any address, which cost the same where the address is aligned (AVX and NEON alike); and it is: intermediate values,
weights and results still begin at multiples of 64.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.AnyAddress")
def _any_address(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.AttrStmt, _unpromised), order="post"))


def any_address() -> tvm.transform.Pass:
    """The pass: to be run after `MakePackedAPI`, which writes the promises as `storage_alignment` of its arguments."""
    return _any_address


def _unpromised(stmt: tirx.AttrStmt) -> tirx.AttrStmt:
    if stmt.attr_key != "storage_alignment":
        return stmt
    return tirx.AttrStmt(stmt.node, stmt.attr_key, tirx.IntImm("int32", 1), stmt.body)
