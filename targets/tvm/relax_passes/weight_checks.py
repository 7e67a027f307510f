"""Removal of the checks of each weight's dtype and shape that the virtual machine would make in every run.

The runtime itself creates the weights' tensors, once, from the manifest that was written together with the code. The
arguments of the caller are still checked.
"""

from __future__ import annotations

import tvm
from tvm import relax

_CHECKS = {"vm.builtin.check_tensor_info", "vm.builtin.match_shape"}


@tvm.transform.module_pass(opt_level=0)
def trust_weights(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Remove the checks of `main` for parameters from the attribute `num_input` on, after VMShapeLower."""
    main = mod["main"]
    weights = {var for var in main.params[int(main.attrs["num_input"]) :] if _has_fixed_shape(var)}
    blocks = [
        relax.BindingBlock([binding for binding in block.bindings if not _checks_one_of(weights, binding)], block.span)
        for block in main.body.blocks
    ]
    body = relax.SeqExpr(blocks, main.body.body, main.body.span)
    mod.update_func(
        mod.get_global_var("main"),
        relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs, main.span),
    )
    return mod


def _has_fixed_shape(var: relax.Var) -> bool:
    return all(isinstance(size, tvm.tirx.IntImm) for size in var.ty.shape)


def _checks_one_of(weights: set[relax.Var], binding: relax.Binding) -> bool:
    call = binding.value
    if not isinstance(call, relax.Call) or not isinstance(call.op, relax.ExternFunc):
        return False
    return call.op.global_symbol in _CHECKS and call.args[0] in weights
