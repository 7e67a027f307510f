"""Shrinking of the buffers of scheduled blocks to what is in use at a time."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import s_tir, tirx


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.CompactBuffers")
def _compact(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    blocks: list[s_tir.SBlock] = []
    tvm_ffi.structural_walk(func.body, (s_tir.SBlock, blocks.append))
    if not blocks:
        return func
    return s_tir.transform.CompactBufferAllocation()(tvm.IRModule({"main": func}))["main"]


def compact_buffers() -> tvm.transform.Pass:
    """Return the pass: TVM's `CompactBufferAllocation`, except for loop nests that a family has written without blocks.

    Those allocate what they need. TVM would turn a buffer's open size into an expression of hundreds of operations.
    """
    return _compact
