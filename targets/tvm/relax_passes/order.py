"""Canonical orders for what TVM leaves in the order of memory addresses, so that equal builds give equal bytes."""

from __future__ import annotations

import re

import tvm
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator


@tvm.transform.module_pass(opt_level=0)
def order_shape_functions(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Sort assignments of sizes by their places, after VMShapeLower.

    Any order is valid: each reads only sizes that were known before the function was called.
    """
    for name, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc) and func.attrs and "tirx.is_host_func" in func.attrs:
            body = func.body
            if isinstance(body, tirx.SeqStmt) and all(isinstance(s, tirx.BufferStore) for s in body):
                ordered = tirx.SeqStmt(sorted(body, key=lambda store: int(store.indices[0])))
                mod.update_func(name, func.with_body(ordered))
    return mod


@tvm.transform.module_pass(opt_level=0)
def order_symbols(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Sort the sizes that a fused function receives by their names, after FuseTIR."""
    orders: dict[tvm.ir.GlobalVar, list[int]] = {}
    for name, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc):
            order = _order(func)
            if order != sorted(order):
                orders[name] = order
                params = [func.params[index] for index in order]
                changed = tirx.PrimFunc(params, func.body, func.ret_type, func.attrs, func.span)
                mod.update_func(name, changed)
    if orders:
        for name, func in mod.functions_items():
            if isinstance(func, relax.Function):
                mod.update_func(name, _Callers(mod, orders).visit_expr(func))
    return mod


def _order(func: tirx.PrimFunc) -> list[int]:
    """Return the parameters by their old places: sizes sorted by name, all others where they were."""
    sizes = [index for index, param in enumerate(func.params) if isinstance(param.ty, tvm.ir.PrimType)]
    names = {func.params[index].name for index in sizes}
    order = list(range(len(func.params)))
    if len(names) == len(sizes):
        by_name = sorted(sizes, key=lambda index: _numbers_as_numbers(func.params[index].name))
        for place, index in zip(sizes, by_name, strict=True):
            order[place] = index
    return order


def _numbers_as_numbers(name: str) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


@mutator
class _Callers(PyExprMutator):
    """Passes arguments in the new order to functions whose parameters were moved."""

    def __init__(self, mod: tvm.IRModule, orders: dict[tvm.ir.GlobalVar, list[int]]) -> None:
        super().__init__(mod)
        self.orders = orders

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        if len(call.args) < 2 or not isinstance(call.args[0], tvm.ir.GlobalVar) or call.args[0] not in self.orders:
            return call
        # The arguments are the parameters before the results; only these were moved.
        given = call.args[1].fields
        moved = relax.Tuple([given[index] for index in self.orders[call.args[0]][: len(given)]])
        return relax.Call(call.op, [call.args[0], moved, *call.args[2:]], call.attrs, call.ty_args, call.span)
