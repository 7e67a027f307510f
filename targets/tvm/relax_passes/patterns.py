"""Annotation of broadcasts that TVM may fuse.

After a convolution or a matmul, `FuseOps` fuses only what it considers elementwise, which excludes the addition of a
broadcast bias, whichever operand is the result of the matmul. If the broadcast operands are weights, fusion is fine:
each element of the result needs one element of each tensor that was computed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, relax

from graphopt.targets.tvm.relax_passes.callers import call_others, kernel_of, pattern_of

ELEMENTWISE, BROADCAST = 0, 1  # TOpPattern


@tvm.transform.module_pass(opt_level=0)
def relax_broadcasts(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Mark kernels whose broadcast operands are weights as elementwise, after AnnotateTIROpPattern.

    Calls of one kernel may differ in that: the harmless ones get a kernel of their own.
    """
    found: dict[ir.GlobalVar, set[bool]] = defaultdict(set)
    for func in list(mod.functions.values()):
        if isinstance(func, relax.Function):
            for call in _calls(func):
                if pattern_of(mod, call) == BROADCAST:
                    found[call.args[0]].add(_is_harmless(call, _weights(func)))
    mixed = {}
    for name, kinds in found.items():
        harmless = mod[name].with_attr("op_pattern", ELEMENTWISE)
        if kinds == {True}:
            mod.update_func(name, harmless)
        elif True in kinds:
            mixed[name] = harmless
    return call_others(mod, mixed, lambda func, call: _is_harmless(call, _weights(func))) if mixed else mod


def _calls(func: relax.Function) -> list[relax.Call]:
    """Return the calls of kernels in a function."""
    values = [binding.value for block in func.body.blocks for binding in block.bindings if hasattr(binding, "value")]
    return [value for value in values if kernel_of(value) is not None]


def _weights(func: relax.Function) -> list[Any]:
    """Return the parameters that are weights."""
    first = int(func.attrs.get("num_input", len(func.params))) if func.attrs else len(func.params)
    return list(func.params[first:])


def _is_harmless(call: relax.Call, weights: Sequence[Any]) -> bool:
    """Return whether all tensors that are not weights have the shape of the result."""
    result = call.ty_args[0]
    if not isinstance(result, relax.TensorType) or result.shape is None:
        return False
    computed = [a for a in call.args[1].fields if isinstance(a.ty, relax.TensorType) and not _is_weight(a, weights)]
    return bool(computed) and all(tvm_ffi.structural_equal(a.ty.shape, result.shape) for a in computed)


def _is_weight(value: relax.Expr, weights: Sequence[Any]) -> bool:
    return isinstance(value, ir.GenericConst) or any(value.same_as(weight) for weight in weights)
