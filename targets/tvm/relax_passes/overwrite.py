"""Writes results over operands that nothing reads any more: a residual sum takes the place of the residual.

Safe where the kernel reads the operand only where it writes its result, element by element. That is seen before
schedules (`note_overwritable`), while each block still says what it reads. It becomes true afterwards (`overwrite`),
because schedules want results and operands apart: the call becomes `call_tir_inplace`, and the kernel gets one
parameter for both, so that the code generator knows that they are the same memory. What keeps unfinished sums in its
result, or stores an element twice, stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, relax, s_tir, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from graphopt.targets.tvm.kernels.common.blocks import SPATIAL, is_identity
from graphopt.targets.tvm.tir_passes.transpose import TRANSPOSE

OVERWRITABLE = "graphopt.overwritable"
"""The attribute of a PrimFunc: the parameters that its last one, the result, may share its memory with."""

_NEVER = 1 << 62


@tvm.transform.module_pass(opt_level=0)
def note_overwritable(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """After FuseTIR and before schedules: notes at every kernel which operands its result may take the place of."""
    for name, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc) and (found := overwritable(func)):
            mod.update_func(name, func.with_attr(OVERWRITABLE, found))
    return mod


def overwritable(func: tirx.PrimFunc) -> list[int]:
    """The parameters that are read nowhere but where the last one, the result, is written: element for element."""
    blocks: list[s_tir.SBlock] = []
    tvm_ffi.structural_walk(func.body, [(s_tir.SBlock, blocks.append)])
    leaves = [block for block in blocks if block.iter_vars]
    # Code outside of blocks, or opaque blocks, would be read by nobody here.
    if len(leaves) + 1 != len(blocks) or not func.params:
        return []
    result = func.params[-1]
    readers: dict[Any, list[s_tir.SBlock]] = {}
    for block in leaves:
        for buffer in {load.source for load in _loads(block)}:
            readers.setdefault(buffer, []).append(block)
    if not tirx.is_buffer_var(result) or result in readers:
        return []
    if sum(any(region.source.same_as(result) for region in block.writes) for block in leaves) != 1:
        return []
    known: dict[Any, bool] = {result: True}

    def reaches_only_its_place(buffer: Any) -> bool:
        """What a buffer holds at a place is read for the result at that place alone."""
        if buffer not in known:
            known[buffer] = False
            known[buffer] = bool(readers.get(buffer)) and all(
                tvm_ffi.structural_equal(list(buffer.shape), list(result.shape))
                and _is_elementwise(block, buffer)
                and reaches_only_its_place(block.body.buffer)
                for block in readers[buffer]
            )
        return known[buffer]

    return [
        index
        for index, param in enumerate(func.params[:-1])
        if tirx.is_buffer_var(param) and param.dtype == result.dtype and reaches_only_its_place(param)
    ]


def _loads(block: s_tir.SBlock) -> list[ir.TensorLoad]:
    found: list[ir.TensorLoad] = []
    tvm_ffi.structural_walk(block.body, [(ir.TensorLoad, found.append)])
    return found


def _is_elementwise(block: s_tir.SBlock, buffer: Any) -> bool:
    """The block goes through all of a buffer, and writes one element where it reads one."""
    body = block.body
    if not isinstance(body, tirx.BufferStore) or any(int(axis.iter_type) != SPATIAL for axis in block.iter_vars):
        return False
    extents = [axis.dom.extent for axis in block.iter_vars]
    return (
        tvm_ffi.structural_equal(extents, list(buffer.shape))
        and is_identity(body.indices, block.iter_vars)
        and all(is_identity(load.indices, block.iter_vars) for load in _loads(block) if load.source.same_as(buffer))
    )


@tvm.transform.module_pass(opt_level=0)
def overwrite(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """After schedules and before memory is planned: results of `main` in the place of operands used up by them."""
    chosen = _choose(mod)
    if not chosen:
        return mod
    rewriter = _Overwriter(mod, chosen)
    rewriter.builder_.update_func(mod.get_global_var("main"), rewriter.visit_expr(mod["main"]))
    return relax.transform.DeadCodeElimination()(rewriter.builder_.finalize())


def _choose(mod: tvm.IRModule) -> dict[Any, int]:
    """Variable of a result -> the operand of its call whose memory it takes."""
    main = mod["main"]
    bindings = [(b, getattr(b, "value", None)) for block in main.body.blocks for b in block.bindings]
    last_use: dict[Any, int] = {}
    for place, (_, value) in enumerate(bindings):
        last_use.update(dict.fromkeys(_variables(value), place))
    last_use.update(dict.fromkeys(_variables(main.body.body), _NEVER))
    memory = _Memory()
    chosen: dict[Any, int] = {}
    for place, (binding, value) in enumerate(bindings):
        memory.use(binding.var, last_use.get(binding.var, place))
        if value is None or not _is_call(value, "relax.call_tir"):
            memory.share(binding.var, _sources(value))
            continue
        memory.own(binding.var)
        if isinstance(binding.var, relax.DataflowVar) and last_use.get(binding.var) != _NEVER:
            for index in _candidates(value, mod):
                operand = value.args[1].fields[index]
                if memory.ends(operand, place, value.args[1].fields):
                    chosen[binding.var] = index
                    memory.share(binding.var, [operand])
                    break
    return chosen


def _variables(value: Any) -> Iterator[Any]:
    return iter(relax.analysis.free_vars(value) if value is not None else ())


def _is_call(value: Any, op: str) -> bool:
    return isinstance(value, relax.Call) and getattr(value.op, "name", "") == op


def _sources(value: Any) -> list[Any]:
    """The variables in whose memory the result of anything but an ordinary call of a kernel may lie."""
    if _is_call(value, "relax.call_tir_inplace"):
        return [value.args[1].fields[int(index)] for index in value.attrs.inplace_indices if int(index) >= 0]
    return list(_variables(value))


def _candidates(call: relax.Call, mod: tvm.IRModule) -> list[int]:
    """The operands of a call that its kernel lets be overwritten."""
    func = mod[call.args[0]]
    single = len(call.ty_args) == 1 and isinstance(call.ty_args[0], relax.TensorType)
    if not single or not isinstance(func, tirx.PrimFunc) or not func.attrs or OVERWRITABLE not in func.attrs:
        return []
    operands = call.args[1].fields
    if len(func.params) != len(operands) + 1 or _reads(func, func.params[-1]) or _stores_twice(func):
        return []
    return [
        int(index)
        for index in func.attrs[OVERWRITABLE]
        if isinstance(operands[int(index)], relax.Var)
        and tvm_ffi.structural_equal(operands[int(index)].ty.shape, call.ty_args[0].shape)
    ]


def _reads(func: tirx.PrimFunc, buffer: Any) -> bool:
    """Return whether a scheduled kernel reads what it has written there itself."""
    loads: list[ir.TensorLoad] = []
    tvm_ffi.structural_walk(func.body, [(ir.TensorLoad, loads.append)])
    return any(load.source.same_as(buffer) for load in loads)


def _stores_twice(func: tirx.PrimFunc) -> bool:
    """Whether a scheduled kernel has tiles that may be moved over others, and store what those have stored again."""
    loops: list[tirx.For] = []
    tvm_ffi.structural_walk(func.body, [(tirx.For, loops.append)])
    return any(TRANSPOSE in loop.annotations for loop in loops if loop.annotations)


class _Memory:
    """Which variables lie in the same memory, and until when one of them is used: for ever for a parameter's."""

    def __init__(self) -> None:
        self._parent: dict[Any, Any] = {}
        self._made: set[Any] = set()
        self._last: dict[Any, int] = {}

    def _root(self, var: Any) -> Any:
        root = var
        while (parent := self._parent.get(root)) is not None:
            root = parent
        while (parent := self._parent.get(var)) is not None:
            self._parent[var], var = root, parent
        return root

    def use(self, var: Any, last: int) -> None:
        """A new variable, and the place of its last use."""
        self._last[var] = last

    def own(self, var: Any) -> None:
        """The variable has memory made for it by a call of a kernel."""
        self._made.add(var)

    def share(self, var: Any, others: list[Any]) -> None:
        """The variable lies, or may lie, in the memory of others."""
        for other in others:
            mine, theirs = self._root(var), self._root(other)
            if not mine.same_as(theirs):
                self._parent[mine] = theirs
                self._last[theirs] = max(self._last.get(theirs, _NEVER), self._last.get(mine, _NEVER))

    def ends(self, var: Any, place: int, operands: Any) -> bool:
        """The memory of a variable was made in this function, is one operand of a call, and is not used after it."""
        root = self._root(var)
        sharing = [other for other in operands if isinstance(other, relax.Var) and self._root(other).same_as(root)]
        return root in self._made and self._last.get(root, _NEVER) == place and len(sharing) == 1


@mutator
class _Overwriter(PyExprMutator):
    """Makes calls that write over an operand out of those chosen."""

    def __init__(self, mod: tvm.IRModule, chosen: dict[Any, int]) -> None:
        super().__init__(mod)
        self.mod = mod
        self.chosen = chosen
        self.variants: dict[tuple[Any, int], ir.GlobalVar] = {}

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        index = self.chosen.get(binding.var)
        if index is None:
            super().visit_var_binding_(binding)
            return
        call = binding.value
        name = call.args[0]
        if (name, index) not in self.variants:
            func = one_buffer(self.mod[name], index)
            self.variants[name, index] = self.builder_.add_func(func, name.name_hint)
        operands = relax.Tuple([self.visit_expr(operand) for operand in call.args[1].fields])
        made = relax.op.call_tir_inplace(self.variants[name, index], operands, [index], call.ty_args[0])
        self.set_var_remap(binding.var, self.builder_.emit(made, binding.var.name))


def one_buffer(func: tirx.PrimFunc, index: int) -> tirx.PrimFunc:
    """A scheduled kernel without its last parameter, the result, which lies where parameter `index` does."""
    result, operand = func.params[-1], func.params[index]

    def store(node: tirx.BufferStore) -> Any:
        return tirx.BufferStore(operand, node.value, node.indices) if node.buffer.same_as(result) else node

    def region(node: ir.TensorRegion) -> Any:
        return tirx.BufferRegion(operand, node.region) if node.source.same_as(result) else node

    body = tvm_ffi.structural_map(func.body, [(tirx.BufferStore, store), (ir.TensorRegion, region)], order="post")
    return s_tir.renew_defs(tirx.PrimFunc(func.params[:-1], body, func.ret_type, func.attrs))
