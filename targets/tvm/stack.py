"""Keeps accumulators on the stack, from where LLVM moves them into registers."""

from __future__ import annotations

import math

import tvm
import tvm_ffi
from tvm import tirx

MOST = 4096
"""Bytes of a buffer that is kept on the stack: far more than all registers hold."""

_KEEP = "disable_lower_builtin"  # TVM's own name for "leave this allocation as it is"


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.KeepLocalsOnStack")
def _keep(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.AllocBuffer, _marked), order="post"))


def keep_locals_on_stack() -> tvm.transform.Pass:
    """The pass: to be run behind `StorageRewrite`, which makes allocations anew.

    TVM takes buffers of scope "local" from its heap of temporary memory (only small ones of scope "global" stay on
    the stack). Heap memory is never taken apart: in a function that other threads run, LLVM stores the accumulators
    in every round of the inner loop, which cost a convolution a fifth to a half of its speed.
    """
    return _keep


def _marked(alloc: tirx.AllocBuffer) -> tirx.AllocBuffer:
    buffer = alloc.buffer
    if buffer.scope() != "local" or not all(isinstance(size, tirx.IntImm) for size in buffer.shape):
        return alloc
    kind = tvm.DataType(buffer.dtype)
    size = math.prod(int(extent) for extent in buffer.shape) * kind.lanes * ((kind.bits + 7) // 8)
    if size > MOST:
        return alloc
    return tirx.AllocBuffer(buffer, annotations={**dict(alloc.annotations), _KEEP: tirx.IntImm("bool", 1)})
