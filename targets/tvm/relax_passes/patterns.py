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
from tvm import ir, relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

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
                if _is_broadcast(call, mod):
                    found[call.args[0]].add(_is_harmless(call, _weights(func)))
    mixed = {}
    for name, kinds in found.items():
        harmless = mod[name].with_attr("op_pattern", ELEMENTWISE)
        if kinds == {True}:
            mod.update_func(name, harmless)
        elif True in kinds:
            mixed[name] = harmless
    return _apart(mod, mixed) if mixed else mod


def _apart(mod: tvm.IRModule, mixed: dict[ir.GlobalVar, tirx.PrimFunc]) -> tvm.IRModule:
    """Let harmless calls of some kernels call others instead, given by the name of the kernel."""
    callers = _Callers(mod, mixed)
    for name, func in mod.functions_items():
        if isinstance(func, relax.Function):
            callers.weights = _weights(func)
            callers.builder_.update_func(name, callers.visit_expr(func))
    return callers.builder_.finalize()


@mutator
class _Callers(PyExprMutator):
    """Calls other kernels where the call is harmless."""

    def __init__(self, mod: tvm.IRModule, mixed: dict[ir.GlobalVar, tirx.PrimFunc]) -> None:
        super().__init__(mod)
        self.mixed = mixed
        self.names: dict[ir.GlobalVar, ir.GlobalVar] = {}
        self.weights: Sequence[Any] = ()

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        kernel = _kernel(call)
        if kernel is None or kernel not in self.mixed or not _is_harmless(call, self.weights):
            return self.visit_expr_post_order(call)
        call = self.visit_expr_post_order(call)
        if kernel not in self.names:
            self.names[kernel] = self.builder_.add_func(self.mixed[kernel], kernel.name_hint)
        return relax.Call(call.op, [self.names[kernel], *call.args[1:]], call.attrs, call.ty_args, call.span)


def _calls(func: relax.Function) -> list[relax.Call]:
    """Return the calls of kernels in a function."""
    values = [binding.value for block in func.body.blocks for binding in block.bindings if hasattr(binding, "value")]
    return [value for value in values if isinstance(value, relax.Call) and _kernel(value) is not None]


def _kernel(call: relax.Call) -> ir.GlobalVar | None:
    return call.args[0] if call.args and isinstance(call.args[0], ir.GlobalVar) else None


def _is_broadcast(call: relax.Call, mod: tvm.IRModule) -> bool:
    """Return whether a call is that of a broadcasting kernel."""
    kernel = mod[call.args[0]]
    if not isinstance(kernel, tirx.PrimFunc) or not kernel.attrs or "op_pattern" not in kernel.attrs:
        return False
    return int(kernel.attrs["op_pattern"]) == BROADCAST


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
