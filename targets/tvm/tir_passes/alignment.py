"""Support for arrays at any address in kernels.

TVM tells LLVM that every argument is aligned to 64 bytes, which numpy's arrays seldom are: each input would have to be
copied first, or an aligned vector load would crash the process. Without this claim, LLVM emits unaligned loads and
stores, which cost the same if the address happens to be aligned (with AVX and NEON alike). It usually is: intermediate
values, weights and results are still aligned to 64 bytes.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.AnyAddress")
def _any_address(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.AttrStmt, _unpromised), order="post"))


def any_address() -> tvm.transform.Pass:
    """Return the pass; to be run after `MakePackedAPI`, which sets `storage_alignment` of arguments."""
    return _any_address


def _unpromised(stmt: tirx.AttrStmt) -> tirx.AttrStmt:
    if stmt.attr_key != "storage_alignment":
        return stmt
    return tirx.AttrStmt(stmt.node, stmt.attr_key, tirx.IntImm("int32", 1), stmt.body)
