"""Copies of results that are constants: the caller may write to them, and the next run must not see that.

Otherwise the virtual machine would return its own constant. (Inputs and weights that are results are recognized by
their addresses in the runtime.) Constants without elements, which TVM cannot read back from a library, become memory.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from graphopt.targets.tvm import compat

_COPY = "runtime.TVMTensorCopyFromTo"  # not a kernel, because constant folding would undo that


@tvm.transform.module_pass(opt_level=0)
def copy_constant_results(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Turn constants among the results of a function, or of a branch in it, into copies, after FoldConstant.

    Constants without elements, wherever they are used, become allocations.
    """
    for name, func in mod.functions_items():
        if isinstance(func, relax.Function):
            mod.update_func(name, _Copies(mod).visit_expr(func))
    return mod


@mutator
class _Copies(PyExprMutator):
    def visit_seq_expr_(self, seq: relax.SeqExpr) -> relax.Expr:
        blocks = [self.visit_binding_block(block) for block in seq.blocks]
        compat.begin_block(self.builder_)
        body = self._owned(self.visit_expr(seq.body))
        copies = compat.end_block(self.builder_)
        return relax.SeqExpr([*blocks, copies] if copies.bindings else blocks, body)

    def visit_generic_const_(self, op: tvm.ir.GenericConst) -> relax.Expr:
        if not isinstance(op.ty, relax.TensorType) or all(int(size) for size in op.ty.shape):
            return op
        return self.builder_.emit(relax.op.builtin.alloc_tensor(op.ty.shape, str(op.ty.dtype), 0))

    def _owned(self, result: relax.Expr) -> relax.Expr:
        if isinstance(result, relax.Tuple):
            return relax.Tuple([self._owned(field) for field in result.fields])
        if isinstance(result, tvm.ir.GenericConst):
            return self.builder_.emit(relax.call_dps_packed(_COPY, [result], out_ty=result.ty))
        return result
