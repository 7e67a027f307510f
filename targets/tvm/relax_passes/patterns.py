"""Annotation of broadcasts that TVM may fuse.

After a convolution or a matmul, `FuseOps` fuses only what it considers elementwise, which excludes the addition of a
broadcast bias, whichever operand is the result of the matmul. If the broadcast operands are weights, fusion is fine:
each element of the result needs one element of each tensor that was computed.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import ir, relax, tirx

ELEMENTWISE, BROADCAST = 0, 1  # TOpPattern


@tvm.transform.module_pass(opt_level=0)
def relax_broadcasts(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Mark kernels whose broadcast operands are weights as elementwise, after AnnotateTIROpPattern."""
    harmless: dict[ir.GlobalVar, bool] = {}
    for func in list(mod.functions.values()):
        if isinstance(func, relax.Function):
            _judge_calls(func, mod, harmless)
    for name, good in harmless.items():
        if good:
            mod.update_func(name, mod[name].with_attr("op_pattern", ELEMENTWISE))
    return mod


def _judge_calls(func: relax.Function, mod: tvm.IRModule, harmless: dict[ir.GlobalVar, bool]) -> None:
    """Check every call of a broadcasting kernel in a function."""
    first = int(func.attrs.get("num_input", len(func.params))) if func.attrs else len(func.params)
    weights = list(func.params[first:])
    for block in func.body.blocks:
        for binding in block.bindings:
            call = binding.value if isinstance(binding, relax.VarBinding) else None
            if not isinstance(call, relax.Call) or not call.args or not isinstance(call.args[0], ir.GlobalVar):
                continue
            kernel = mod[call.args[0]]
            if isinstance(kernel, tirx.PrimFunc) and _pattern(kernel) == BROADCAST:
                good = _is_harmless(call, weights)
                harmless[call.args[0]] = good and harmless.get(call.args[0], True)


def _pattern(kernel: tirx.PrimFunc) -> int | None:
    pattern = kernel.attrs.get("op_pattern") if kernel.attrs else None
    return None if pattern is None else int(pattern)


def _is_harmless(call: relax.Call, weights: list[Any]) -> bool:
    """Return whether all tensors that are not weights have the shape of the result."""
    result = call.ty_args[0]
    if not isinstance(result, relax.TensorType) or result.shape is None:
        return False
    computed = [a for a in call.args[1].fields if isinstance(a.ty, relax.TensorType) and not _is_weight(a, weights)]
    return bool(computed) and all(tvm_ffi.structural_equal(a.ty.shape, result.shape) for a in computed)


def _is_weight(value: relax.Expr, weights: list[Any]) -> bool:
    return isinstance(value, ir.GenericConst) or any(value.same_as(weight) for weight in weights)
