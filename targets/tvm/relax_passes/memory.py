"""The memory that intermediate values take, without and with planning.

It is measured on Relax code at two points of the pipeline, where each value still has separate memory and where storage
is shared, by simulating the virtual machine and its memory pool.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import tvm
import tvm_ffi
from tvm import relax, sym, tirx

from graphopt.runtime.manifest import Memory

_PAGE = 4096  # the pool of the virtual machine allocates whole pages
_ALLOCATIONS = {"relax.builtin.alloc_tensor", "relax.memory.alloc_storage"}
_ENDS = {"relax.memory.kill_tensor", "relax.memory.kill_storage"}

Roots = frozenset[relax.Var]
"""The allocations that a value may be in."""


@dataclass
class Meter:
    """Two passes of one build, after which `memory` of the function `main` is known."""

    tensors: int = 0
    live: int = 0
    allocated: int = 0
    sizes: set[str] = field(default_factory=set)

    @property
    def memory(self) -> Memory:
        return Memory(self.tensors, self.live, self.allocated, tuple(sorted(self.sizes)))

    def before(self) -> tvm.transform.Pass:
        """Return a pass after CallTIRRewrite that measures the values."""
        return self._pass(self._measure_values, "graphopt.MeasureValues")

    def after(self) -> tvm.transform.Pass:
        """Return a pass after KillAfterLastUse that measures the storage."""
        return self._pass(self._measure_storage, "graphopt.MeasureStorage")

    def _pass(self, look: object, name: str) -> tvm.transform.Pass:
        @tvm.transform.module_pass(opt_level=0, name=name)
        def measure(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
            look(mod["main"])  # type: ignore[operator]
            return mod

        return measure

    def _measure_values(self, main: relax.Function) -> None:
        bindings = list(_bindings(main.body))
        roots, results = _roots(bindings, main.body)
        sizes = {binding.var: self._bytes(binding.value) for binding in bindings if _op(binding) in _ALLOCATIONS}
        self.tensors = sum(_in_pages(size) for var, size in sizes.items() if var not in results)
        last = {root: place for place, binding in enumerate(bindings) for root in _used(binding.value, roots)}
        now = 0
        ending: Counter[int] = Counter()
        for place, binding in enumerate(bindings):
            size = sizes.get(binding.var, 0) if binding.var not in results else 0
            now += size
            ending[last.get(binding.var, place)] += size
            self.live = max(self.live, now)
            now -= ending[place]

    def _measure_storage(self, main: relax.Function) -> None:
        bindings = list(_bindings(main.body))
        roots, results = _roots(bindings, main.body)
        holders: Counter[relax.Var] = Counter()
        sizes: dict[relax.Var, int] = {}
        free: Counter[int] = Counter()
        for binding in bindings:
            if _op(binding) in _ALLOCATIONS:
                size = sizes[binding.var] = _in_pages(self._bytes(binding.value))
                if binding.var not in results:
                    self.allocated += 0 if free[size] else size
                    free[size] -= 1 if free[size] else 0
            if _op(binding) in _ENDS:
                held = _used(binding.value, roots)
                holders.subtract(held)
                free.update(sizes[root] for root in held if not holders[root] and root not in results)
            else:
                holders.update(roots.get(binding.var, ()))

    def _bytes(self, call: relax.Call) -> int:
        """Return the bytes of an allocation; an open size counts as 1, and is recorded."""
        count = 1
        for size in call.args[0].values:
            found: list[tirx.Var] = []
            tvm_ffi.structural_walk(size, (tirx.Var, found.append))
            self.sizes.update(var.name for var in found)
            one = tvm_ffi.structural_map(size, (tirx.Var, lambda _: tirx.IntImm("int64", 1)))
            count *= max(0, int(sym.Analyzer().simplify(one)))
        if _op_name(call) == "relax.memory.alloc_storage":
            return count
        return count * tvm.DataType(str(call.args[1].value)).itemsize


def _in_pages(size: int) -> int:
    """Return what the pool allocates for `size` bytes."""
    return math.ceil(size / _PAGE) * _PAGE


def _bindings(body: relax.SeqExpr) -> Iterator[relax.Binding]:
    """Yield every binding in the order of execution, the branches of an `If` one after the other before its own."""
    for block in body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.If):
                yield from _bindings(binding.value.true_branch)
                yield from _bindings(binding.value.false_branch)
            yield binding


def _roots(bindings: list[relax.Binding], body: relax.SeqExpr) -> tuple[dict[relax.Var, Roots], Roots]:
    """Return, for each variable, the allocations that it may be in, and those that the function's result may be in."""
    roots: dict[relax.Var, Roots] = {}
    for binding in bindings:
        if _op(binding) in _ALLOCATIONS:
            roots[binding.var] = frozenset({binding.var})
        elif _op(binding) not in _ENDS and not _is_kernel_call(binding.value):
            roots[binding.var] = _used(binding.value, roots)
    return roots, _used(body.body, roots)


def _used(expr: relax.Expr, roots: dict[relax.Var, Roots]) -> Roots:
    if isinstance(expr, relax.If):
        return _used(expr.true_branch.body, roots) | _used(expr.false_branch.body, roots)
    return frozenset(root for var in relax.analysis.free_vars(expr) for root in roots.get(var, ()))


def _is_kernel_call(value: relax.Expr) -> bool:
    """Return whether its result is not a tensor: what it computes is written into an argument."""
    return isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar)


def _op(binding: relax.Binding) -> str:
    return _op_name(binding.value)


def _op_name(value: relax.Expr) -> str:
    return value.op.name if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op) else ""
