"""In-place results: a residual sum overwrites the residual if nothing reads that afterwards.

This is safe if the kernel reads the operand only where it writes its result, element by element. That is determined
before scheduling (`note_overwritable`), while each block still declares what it reads. It is applied afterwards
(`overwrite`), because schedules need separate results and operands: the call becomes `call_tir_inplace`, and the kernel
gets one parameter for both, so that the code generator knows that they are the same memory. Kernels that keep partial
sums in their result, or store an element twice, are left alone.
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
"""The attribute of a PrimFunc that lists the parameters whose memory its last one, the result, may share."""

_NEVER = 1 << 62


@tvm.transform.module_pass(opt_level=0)
def note_overwritable(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Record for every kernel which operands its result may overwrite; after FuseTIR and before scheduling."""
    for name, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc) and (found := overwritable(func)):
            mod.update_func(name, func.with_attr(OVERWRITABLE, found))
    return mod


def overwritable(func: tirx.PrimFunc) -> list[int]:
    """Return the parameters that are only read where the last one, the result, is written, element by element."""
    blocks: list[s_tir.SBlock] = []
    tvm_ffi.structural_walk(func.body, [(s_tir.SBlock, blocks.append)])
    leaves = [block for block in blocks if block.iter_vars]
    # Code outside of blocks, and opaque blocks, would not be analyzed.
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
        """Return whether an element of a buffer is only read for the result at the same place."""
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
    """Return whether the block covers all of a buffer, and writes one element where it reads one."""
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
    """Make results of `main` overwrite operands without later uses; after scheduling and before memory planning."""
    chosen = _choose(mod)
    if not chosen:
        return mod
    rewriter = _Overwriter(mod, chosen)
    rewriter.builder_.update_func(mod.get_global_var("main"), rewriter.visit_expr(mod["main"]))
    return relax.transform.DeadCodeElimination()(rewriter.builder_.finalize())


def _choose(mod: tvm.IRModule) -> dict[Any, int]:
    """Map variables of results to the operand of their call whose memory they take."""
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
    """Return the variables in whose memory the result of anything but an ordinary kernel call may be."""
    if _is_call(value, "relax.call_tir_inplace"):
        return [value.args[1].fields[int(index)] for index in value.attrs.inplace_indices if int(index) >= 0]
    return list(_variables(value))


def _candidates(call: relax.Call, mod: tvm.IRModule) -> list[int]:
    """Return the operands of a call that its kernel may overwrite."""
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
    """Return whether a scheduled kernel reads what it has written itself."""
    loads: list[ir.TensorLoad] = []
    tvm_ffi.structural_walk(func.body, [(ir.TensorLoad, loads.append)])
    return any(load.source.same_as(buffer) for load in loads)


def _stores_twice(func: tirx.PrimFunc) -> bool:
    """Return whether a scheduled kernel may shift tiles so that they overlap others, and store elements twice."""
    loops: list[tirx.For] = []
    tvm_ffi.structural_walk(func.body, [(tirx.For, loops.append)])
    return any(TRANSPOSE in loop.annotations for loop in loops if loop.annotations)


class _Memory:
    """The variables that share memory, and until when each is used: forever for a parameter's."""

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
        """Add a variable, and the place of its last use."""
        self._last[var] = last

    def own(self, var: Any) -> None:
        """Record that the variable has memory that a kernel call allocated."""
        self._made.add(var)

    def share(self, var: Any, others: list[Any]) -> None:
        """Record that the variable is, or may be, in the memory of others."""
        for other in others:
            mine, theirs = self._root(var), self._root(other)
            if not mine.same_as(theirs):
                self._parent[mine] = theirs
                self._last[theirs] = max(self._last.get(theirs, _NEVER), self._last.get(mine, _NEVER))

    def ends(self, var: Any, place: int, operands: Any) -> bool:
        """Return whether a variable's memory was allocated here, is one operand of a call, and is not used after it."""
        root = self._root(var)
        sharing = [other for other in operands if isinstance(other, relax.Var) and self._root(other).same_as(root)]
        return root in self._made and self._last.get(root, _NEVER) == place and len(sharing) == 1


@mutator
class _Overwriter(PyExprMutator):
    """Turns the chosen calls into calls that overwrite an operand."""

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
    """Return a scheduled kernel without its last parameter, the result, which is in the memory of parameter `index`."""
    result, operand = func.params[-1], func.params[index]

    def store(node: tirx.BufferStore) -> Any:
        return tirx.BufferStore(operand, node.value, node.indices) if node.buffer.same_as(result) else node

    def region(node: ir.TensorRegion) -> Any:
        return tirx.BufferRegion(operand, node.region) if node.source.same_as(result) else node

    body = tvm_ffi.structural_map(func.body, [(tirx.BufferStore, store), (ir.TensorRegion, region)], order="post")
    return s_tir.renew_defs(tirx.PrimFunc(func.params[:-1], body, func.ret_type, func.attrs))
