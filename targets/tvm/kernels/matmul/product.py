"""The computation of a fused matmul, read from its blocks: the operands' elements, the sum, and the epilogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.s_tir import Schedule

from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common import steps
from graphopt.targets.tvm.kernels.common.statements import Expr, loads, replaced, uses

EXPENSIVE = 12
"""The number of operations above which an epilogue is not unrolled over a register tile."""


@dataclass(frozen=True)
class Stage:
    """One block: `target[indices] = value` for each value of `axes`."""

    axes: tuple[tirx.Var, ...]
    extents: tuple[Expr, ...]
    target: tirx.Buffer
    indices: tuple[Expr, ...]
    value: Expr

    def at(self, place: list[Expr]) -> tuple[list[Expr], Expr]:
        """Return the indices and the value for these values of the axes."""
        values = dict(zip(self.axes, place, strict=True))
        return [replaced(index, values) for index in self.indices], replaced(self.value, values)


@dataclass(frozen=True)
class Product:
    """A sum of products over K, and its epilogue.

    `term`: axes (batch, m, n, k), its value a product to be summed. `finish`: axes (batch, m, n), its value reads the
    sum at exactly these indices. `pack`: the stage that packs the right operand, if there is one. `cost`: operations of
    `finish` per element. `tile`: the numbers of the plan.
    """

    term: Stage
    finish: Stage
    pack: Stage | None
    cost: int
    tile: tuple[int, ...]

    def finished(self, place: list[Expr], total: Expr) -> tirx.Stmt:
        """Return the statement that stores the element at `place` whose sum is `total`."""
        summed = self.term.target

        def choose(load: ir.TensorLoad) -> Any:
            return total if load.source.same_as(summed) else load

        indices, value = self.finish.at(place)
        value = tvm_ffi.structural_map(value, (ir.TensorLoad, choose), order="post")
        return tirx.BufferStore(self.finish.target, value, indices)

    def residuals(self, place: list[Expr]) -> list[ir.TensorLoad]:
        """Return what finishing the element at `place` reads that no other row reads."""
        row, values = self.finish.axes[-2], dict(zip(self.finish.axes, place, strict=True))
        return [
            replaced(load, values)
            for load in loads(self.finish.value)
            if uses(load, row) and not load.source.same_as(self.term.target) and not any(map(loads, load.indices))
        ]


def read_product(func: tirx.PrimFunc) -> Product | None:
    """Return the matmul that `func` computes, with its epilogue; None for any other function."""
    sch = Schedule(tvm.IRModule({"main": func}), enable_check=not facts.is_symbolic(func))
    anchor = facts.find_anchor(sch, ("matmul",))
    if anchor is None:
        return None
    final = steps.inline_around(sch, anchor, keep=("pack",))
    stages = [_stage(sch, block) for block in facts.child_blocks(sch)]
    if not 2 <= len(stages) <= 3 or any(stage is None for stage in stages):
        return None
    info = facts.describe(sch, final)
    *before, term, finish = stages
    pack = before[0] if before else None
    if facts.index_of(sch, final) != len(stages) - 1 or info is None or not _reads_in_place(finish, term):
        return None
    if pack is not None and not any(load.source.same_as(pack.target) for load in loads(term.value)):
        return None
    tile = tuple(int(v) for v in sch.get(anchor).annotations["tile"])
    return Product(term, finish, pack, info.cost, tile)


def _stage(sch: Schedule, rv: Any) -> Any:
    """Return a block as a stage; for a sum, the value is the added term."""
    stmt = sch.get(rv)
    store = stmt.body
    if not isinstance(store, tirx.BufferStore):
        return None
    value = store.value
    if any(int(axis.iter_type) == facts.REDUCE for axis in stmt.iter_vars):
        if not isinstance(value, tirx.Add):
            return None
        value = value.b
    axes = tuple(axis.var for axis in stmt.iter_vars)
    extents = tuple(axis.dom.extent for axis in stmt.iter_vars)
    return Stage(axes, extents, store.buffer, tuple(store.indices), value)


def _reads_in_place(finish: Stage, term: Stage) -> bool:
    """Return whether `finish` reads the sum only at the indices of its own axes."""

    def same(indices: Any) -> bool:
        return len(indices) == len(finish.axes) and all(
            index.same_as(axis) or facts.extent(size) == 1
            for index, axis, size in zip(indices, finish.axes, finish.extents, strict=True)
        )

    reads = [load for load in loads(finish.value) if load.source.same_as(term.target)]
    return bool(reads) and all(same(load.indices) for load in reads)
