"""Sums of two quantized products: both are stored as integers.

`FuseOps` fuses a convolution or matmul with all that is elementwise after it. For one of two that are added, this goes
on past the sum. The other would end where its integers have become the sum's floats, of four times as many bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from graphopt.targets.tvm.relax_passes.callers import call_others, kernel_of, pattern_of
from graphopt.targets.tvm.relax_passes.patterns import BROADCAST, ELEMENTWISE

PRODUCT = 4  # TOpPattern


@tvm.transform.module_pass(opt_level=0)
def widen_after_reading(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Mark one of two kernels that widen the operands of a sum as a broadcast, after `relax_broadcasts`.

    A broadcast is not fused with the product before it, but with the sum that reads it.
    """
    found = [call for func in mod.functions.values() if isinstance(func, relax.Function) for call in _found(func, mod)]
    others = {call.args[0]: mod[call.args[0]].with_attr("op_pattern", BROADCAST) for call in found}
    if not others:
        return mod
    chosen = {hash(call) for call in found}  # by identity
    return call_others(mod, others, lambda func, call: hash(call) in chosen)


def _found(func: relax.Function, mod: tvm.IRModule) -> list[relax.Call]:
    """Return a kernel call for each sum of two products that were narrowed and widened."""
    bindings = [binding for block in func.body.blocks for binding in block.bindings if hasattr(binding, "value")]
    made = {binding.var: binding.value for binding in bindings}
    readers: dict[Any, int] = {}
    for expr in (*(binding.value for binding in bindings), func.body.body):
        for var in relax.analysis.free_vars(expr):
            readers[var] = readers.get(var, 0) + 1
    found = []
    for value in made.values():
        if pattern_of(mod, value) not in (ELEMENTWISE, BROADCAST):
            continue
        operands = _operands(value, made)
        two = len(operands) == 2 and not operands[0].same_as(operands[1])
        if two and all(_is_widened_product(operand, made, readers, mod) for operand in operands):
            found.append(made[operands[1]])
    return found


def _operands(call: relax.Call, made: dict[Any, Any]) -> Sequence[Any]:
    """Return the operands of a kernel that other kernels computed, if all have the shape of its result."""
    operands = [operand for operand in call.args[1].fields if operand in made]
    shapes = [value.ty.shape for value in operands]
    same = all(tvm_ffi.structural_equal(shape, call.ty_args[0].shape) for shape in shapes)
    return operands if same else []


def _is_widened_product(value: Any, made: dict[Any, Any], readers: dict[Any, int], mod: tvm.IRModule) -> bool:
    """Return whether one of several elementwise kernels after a product, the last, has results larger than its data."""
    narrow = _before(value, made, readers, mod)
    if narrow is None or tvm.DataType(narrow.ty.dtype).bits >= tvm.DataType(value.ty.dtype).bits:
        return False
    while narrow is not None:
        if readers[narrow] == 1 and pattern_of(mod, made[narrow]) == PRODUCT:
            return True
        narrow = _before(narrow, made, readers, mod)
    return False


def _before(value: Any, made: dict[Any, Any], readers: dict[Any, int], mod: tvm.IRModule) -> Any:
    """Return the only operand of the elementwise kernel that computes a value with one reader; None if it is none."""
    call = made[value]
    if readers[value] != 1 or kernel_of(call) is None or pattern_of(mod, call) != ELEMENTWISE:
        return None
    operands = _operands(call, made)
    return operands[0] if len(operands) == 1 else None
