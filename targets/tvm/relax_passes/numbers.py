"""One function for kernels that are equal except for numbers in them, such as the scales of quantized layers.

Code is generated once for functions that are equal. One-element constants are part of the code, where they cost
nothing; but layers of equal sizes that differ only in them would each be compiled anew. In such functions, the numbers
that differ become parameters: tensors of one element.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import tvm
import tvm_ffi
from tvm import ir, relax, s_tir, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

_PLACEHOLDER = 3
_Number: TypeAlias = Any
"""A `FloatImm` or `IntImm`."""


@tvm.transform.module_pass(opt_level=0)
def share_but_for_numbers(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Merge functions that differ in float32 and int32 numbers alone, after FuseTIR and before scheduling.

    Of whole numbers, only those that are added, subtracted or multiplied become parameters; indices are int64. Numbers
    that are equal to each other in each function, such as the zero point that is added and then subtracted, become one.
    """
    merged: dict[ir.GlobalVar, tuple[tirx.PrimFunc, list[_Number]]] = {}
    for group in _alike(mod):
        numbers = [_numbers(mod[name]) for name in group]
        alike: dict[tuple[tuple[str, float], ...], list[int]] = defaultdict(list)
        for place, values in enumerate(zip(*numbers, strict=True)):
            if _differ(values):
                alike[tuple((str(number.ty.dtype), number.value) for number in values)].append(place)
        if alike:
            func = _with_parameters(mod[group[0]], list(alike.values()))
            given = [[own[first] for first, *_ in alike.values()] for own in numbers]
            merged.update({name: (func, values) for name, values in zip(group, given, strict=True)})
    if not merged:
        return mod
    rest = {name: func for name, func in mod.functions_items() if name not in merged}
    rewriter = _Callers(tvm.IRModule(rest, attrs=mod.attrs), merged)
    for name, func in rest.items():
        if isinstance(func, relax.Function):
            rewriter.builder_.update_func(name, rewriter.visit_expr(func))
    return rewriter.builder_.finalize()


def _alike(mod: tvm.IRModule) -> list[list[ir.GlobalVar]]:
    """Return groups of several functions that differ at most in numbers, ordered by name."""
    found: dict[int, list[tuple[tirx.PrimFunc, list[ir.GlobalVar]]]] = defaultdict(list)
    for name, func in sorted(mod.functions_items(), key=lambda item: item[0].name_hint):
        if not isinstance(func, tirx.PrimFunc) or not _numbers(func):
            continue
        bare = _mapped(func, lambda number: tirx.const(_PLACEHOLDER, str(number.ty.dtype)))
        same = found[tvm_ffi.structural_hash(bare)]
        group = next((names for other, names in same if tvm_ffi.structural_equal(bare, other)), None)
        if group is None:
            same.append((bare, [name]))
        else:
            group.append(name)
    return [names for same in found.values() for _, names in same if len(names) > 1]


def _differ(numbers: Sequence[_Number]) -> bool:
    return len({number.value for number in numbers}) > 1


def _is_number(number: _Number) -> bool:
    dtype = str(number.ty.dtype)
    return dtype == "int32" or (dtype == "float32" and bool(np.isfinite(number.value)))


def _numbers(func: tirx.PrimFunc) -> list[_Number]:
    """Return the numbers in what a function stores, in the order in which `_mapped` meets them."""
    found: list[_Number] = []

    def note(number: _Number) -> _Number:
        found.append(number)
        return number

    _mapped(func, note)
    return found


def _mapped(func: tirx.PrimFunc, change: Any) -> tirx.PrimFunc:
    """Return a function with each number replaced that occurs in what it stores."""

    def number(node: Any) -> Any:
        return change(node) if _is_number(node) else node

    def arithmetic(node: Any) -> Any:
        a, b = (number(side) if isinstance(side, tirx.IntImm) else side for side in (node.a, node.b))
        return node if a is node.a and b is node.b else type(node)(a, b)

    def store(node: tirx.BufferStore) -> Any:
        kinds = [(tirx.FloatImm, number), ((tirx.Add, tirx.Sub, tirx.Mul), arithmetic)]
        value = tvm_ffi.structural_map(node.value, kinds, order="post")
        return tirx.BufferStore(node.buffer, value, node.indices)

    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.BufferStore, store), order="post"))


def _with_parameters(func: tirx.PrimFunc, places: Sequence[Sequence[int]]) -> tirx.PrimFunc:
    """Return a function whose first parameters are the numbers at some places among `_numbers`, several for each."""
    kinds = [str(number.ty.dtype) for number in _numbers(func)]
    added = [tirx.decl_buffer([1], kinds[first], f"number{i}", layout=None) for i, (first, *_) in enumerate(places)]
    buffers = {place: buffer for buffer, same in zip(added, places, strict=True) for place in same}
    met = iter(range(1 << 62))

    def change(number: _Number) -> Any:
        buffer = buffers.get(next(met))
        return number if buffer is None else buffer[tirx.IntImm("int64", 0)]

    body = _declared(_mapped(func, change).body, added)
    return s_tir.renew_defs(tirx.PrimFunc([*added, *func.params], body, func.ret_type, func.attrs))


def _declared(body: tirx.Stmt, added: Sequence[Any]) -> tirx.Stmt:
    """Return a body in which each block declares which of the added parameters it reads."""

    def block(node: s_tir.SBlock) -> Any:
        loads: list[ir.TensorLoad] = []
        tvm_ffi.structural_walk(node.body, [(ir.TensorLoad, loads.append)])
        read = [buffer for buffer in added if any(load.source.same_as(buffer) for load in loads)]
        if not read or not node.iter_vars:
            return node
        whole = [ir.Range(tirx.IntImm("int64", 0), tirx.IntImm("int64", 1))]
        reads = [*node.reads, *(tirx.BufferRegion(buffer, whole) for buffer in read)]
        parts = (node.writes, node.name_hint, node.body, node.init)
        return s_tir.SBlock(
            node.iter_vars, reads, *parts, node.alloc_buffers, node.match_buffers, node.annotations, node.span
        )

    return tvm_ffi.structural_map(body, (s_tir.SBlock, block), order="post")


@mutator
class _Callers(PyExprMutator):
    """Calls the merged functions, with the numbers as the first arguments."""

    def __init__(self, mod: tvm.IRModule, merged: dict[ir.GlobalVar, tuple[tirx.PrimFunc, list[_Number]]]) -> None:
        super().__init__(mod)
        self.merged = merged
        self.names: dict[Any, ir.GlobalVar] = {}

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        if len(call.args) < 2 or not isinstance(call.args[0], ir.GlobalVar) or call.args[0] not in self.merged:
            return call
        func, numbers = self.merged[call.args[0]]
        if func not in self.names:
            self.names[func] = self.builder_.add_func(func, call.args[0].name_hint)
        arrays = [np.array([number.value], str(number.ty.dtype)) for number in numbers]
        constants = [relax.const(tvm.runtime.tensor(array)) for array in arrays]
        operands = relax.Tuple([*constants, *call.args[1].fields])
        return relax.Call(call.op, [self.names[func], operands, *call.args[2:]], call.attrs, call.ty_args, call.span)
