"""Subtractions and comparisons of floats, in a form that TVM's simplifiers leave alone.

To them x - x is 0, (x + y) - y is x, x == x is true, and not x < y is y <= x. For floats all of this is wrong: sums are
rounded or overflow, and NaN is not equal to itself. A sum from which the larger term is subtracted again is how numbers
are rounded, in users' models and in the polynomials of elementary functions. A call of `graphopt.subtract` is opaque.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import ir, tirx

_OPERATORS = {
    tirx.Sub: "graphopt.subtract",
    tirx.EQ: "graphopt.equal",
    tirx.NE: "graphopt.not_equal",
    tirx.LT: "graphopt.less",
    tirx.LE: "graphopt.less_equal",
    tirx.GT: "graphopt.greater",
    tirx.GE: "graphopt.greater_equal",
}
_CLASSES = {name: operator for operator, name in _OPERATORS.items()}
CALLS = frozenset(_CLASSES)
"""The names of the calls: each is one instruction."""
for _name in _CLASSES:
    ir.register_op_attr(_name, "TCallEffectKind", int(tirx.CallEffectKind.Pure.value))
    ir.register_op_attr(_name, "TScriptPrinterName", _name)
    ir.register_op_attr(_name, "TVectorizable", True)


def keep_exact(node: Any) -> Any:
    """Return an expression or statement with calls for the subtractions and comparisons of floats in it."""
    return tvm_ffi.structural_map(node, (tuple(_OPERATORS), _hidden), order="post")


def _hidden(node: Any) -> Any:
    if not str(node.a.ty.dtype).startswith("float") or "float8" in str(node.a.ty.dtype):
        return node
    return tirx.call_intrin(str(node.ty.dtype), _OPERATORS[type(node)], node.a, node.b)


@tvm.tirx.transform.prim_func_pass(opt_level=0, name="graphopt.RestoreExact")
def _restore(func: tirx.PrimFunc, _mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    return func.with_body(tvm_ffi.structural_map(func.body, (ir.Call, _shown), order="post"))


def restore_exact() -> tvm.transform.Pass:
    """Return the pass that replaces the calls by operators again; no simplifier may run after it."""
    return _restore


def _shown(call: ir.Call) -> Any:
    operator = _CLASSES.get(getattr(call.op, "name", ""))
    return call if operator is None else operator(*call.args)
