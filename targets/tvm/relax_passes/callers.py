"""Kernels of their own for some of the calls of a kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import tvm
from tvm import ir, relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator


def call_others(
    mod: tvm.IRModule,
    others: Mapping[ir.GlobalVar, tirx.PrimFunc],
    chosen: Callable[[relax.Function, relax.Call], bool],
) -> tvm.IRModule:
    """Return the module where chosen calls of some kernels call others instead.

    others: by the kernel that is called.
    chosen: whether a call, in a function, is one to change; only calls of these kernels are asked for.
    """
    callers = _Callers(mod, others)
    for name, func in mod.functions_items():
        if isinstance(func, relax.Function):
            callers.chosen = functools.partial(chosen, func)
            callers.builder_.update_func(name, callers.visit_expr(func))
    return callers.builder_.finalize()


def kernel_of(value: Any) -> ir.GlobalVar | None:
    """Return the kernel that a value is a call of; None if it is none."""
    is_call = isinstance(value, relax.Call) and value.args and isinstance(value.args[0], ir.GlobalVar)
    return value.args[0] if is_call else None


def pattern_of(mod: tvm.IRModule, value: Any) -> int | None:
    """Return the fusion pattern (TOpPattern) of the kernel that a value is a call of; None if it has none."""
    kernel = kernel_of(value)
    func = None if kernel is None else mod[kernel]
    if not isinstance(func, tirx.PrimFunc) or not func.attrs or "op_pattern" not in func.attrs:
        return None
    return int(func.attrs["op_pattern"])


@mutator
class _Callers(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, others: Mapping[ir.GlobalVar, tirx.PrimFunc]) -> None:
        super().__init__(mod)
        self.others = others
        self.names: dict[ir.GlobalVar, ir.GlobalVar] = {}
        self.chosen: Callable[[relax.Call], bool] = lambda call: False

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        kernel = kernel_of(call)
        if kernel is None or kernel not in self.others or not self.chosen(call):
            return self.visit_expr_post_order(call)
        call = self.visit_expr_post_order(call)
        if kernel not in self.names:
            self.names[kernel] = self.builder_.add_func(self.others[kernel], kernel.name_hint)
        return relax.Call(call.op, [self.names[kernel], *call.args[1:]], call.attrs, call.ty_args, call.span)
