"""Merging of chains of elementwise blocks, in which a value that is read several times has a name.

Relax fuses operators into one block each. If they are inlined one after the other (`compute_inline`), an operator that
reads its operand k times copies everything before it k times, and six such operators make thousands of copies. Merged
here, each operator is written once: a value that is read more than once is bound by a `let`, and schedules see a single
block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx

from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common.statements import loads
from graphopt.targets.tvm.tir_passes import let

Expr = Any


def merge_elementwise(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Merge each block of `func` into the one block that reads its result, if that reads it element by element.

    Both have the same axes, all of them data parallel. A function that is not made of such blocks is left unchanged.
    """
    root = _root(func)
    if root is None:
        return func
    parts = [_part(part) for part in root.body]
    if any(part is None for part in parts):
        return func
    kept: list[_Part] = []  # in reverse: all readers of a block have been merged, or not, when its turn comes
    for part in reversed(parts):
        assert part is not None
        reader = _only_reader(part, kept, root)
        if reader is None:
            kept.append(part)
        else:
            reader.take(part)
    if len(kept) == len(parts):
        return func
    kept.reverse()
    written = [part.buffer for part in kept]
    allocated = [b for b in root.alloc_buffers if any(b.same_as(buffer) for buffer in written)]
    statements = [part.statement() for part in kept]
    body = statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)
    block = s_tir.SBlock([], [], [], root.name_hint, body, None, allocated, [], root.annotations)
    realize = func.body
    return func.with_body(s_tir.SBlockRealize(realize.iter_values, realize.predicate, block))


@dataclass
class _Part:
    """A statement below the root: the loops of a block, the block, and what it stores (None: not one plain store)."""

    nest: tirx.Stmt
    block: s_tir.SBlock
    value: Expr | None
    changed: bool = False

    @property
    def buffer(self) -> tirx.Buffer:
        return self.block.writes[0].source

    @property
    def axes(self) -> list[tirx.IterVar]:
        return list(self.block.iter_vars)

    def is_elementwise(self) -> bool:
        """Whether it stores each element, at its own indices, computed from data-parallel axes."""
        return (
            self.value is not None
            and all(int(axis.iter_type) == facts.SPATIAL for axis in self.axes)
            and facts.is_identity(self.block.body.indices, self.axes)
        )

    def loads(self, buffer: tirx.Buffer) -> list[ir.TensorLoad]:
        """Return what the block reads of a buffer."""
        everything = loads(self.block.body if self.value is None else self.value)
        return [load for load in everything if load.source.same_as(buffer)]

    def take(self, producer: _Part) -> None:
        """Compute what `producer` stores in this block."""
        assert producer.value is not None
        axes = {hash(old.var): new.var for old, new in zip(producer.axes, self.axes, strict=True)}
        value = tvm_ffi.structural_map(producer.value, (tirx.Var, lambda var: axes.get(hash(var), var)), order="post")
        named = len(self.loads(producer.buffer)) > 1 and not isinstance(
            value, ir.TensorLoad | tirx.IntImm | tirx.FloatImm
        )
        used = let.reference(str(value.ty.dtype)) if named else value

        def read(load: ir.TensorLoad) -> Expr:
            return used if load.source.same_as(producer.buffer) else load

        self.value = tvm_ffi.structural_map(self.value, (ir.TensorLoad, read), order="post")
        if named:
            self.value = let.let_as(used, value, self.value)
        self.changed = True

    def statement(self) -> tirx.Stmt:
        """Return the loops around the block in its current form."""
        if not self.changed:
            return self.nest
        old = self.block
        body = tirx.BufferStore(old.body.buffer, self.value, old.body.indices)
        block = s_tir.SBlock(old.iter_vars, [], [], old.name_hint, body, None, [], [], old.annotations)
        buffers = {buffer: buffer for buffer in (body.buffer, *(load.source for load in loads(self.value)))}
        reads, writes = s_tir.analysis.get_sblock_access_region(block, buffers)[:2]
        block = s_tir.SBlock(old.iter_vars, reads, writes, old.name_hint, body, None, [], [], old.annotations)
        return tvm_ffi.structural_map(
            self.nest, (s_tir.SBlock, lambda other: block if other.same_as(old) else other), order="post"
        )


def _root(func: tirx.PrimFunc) -> s_tir.SBlock | None:
    """Return the block around all others, for a function with more than one."""
    body = func.body
    if not isinstance(body, s_tir.SBlockRealize) or not isinstance(body.block.body, tirx.SeqStmt):
        return None
    root = body.block
    return None if root.match_buffers or root.iter_vars else root


def _part(statement: tirx.Stmt) -> _Part | None:
    nest = statement
    while isinstance(statement, tirx.For):
        statement = statement.body
    if not isinstance(statement, s_tir.SBlockRealize):
        return None
    block = statement.block
    if len(block.writes) != 1:
        return None
    plain = isinstance(block.body, tirx.BufferStore) and block.init is None
    plain = plain and not block.alloc_buffers and not block.match_buffers
    return _Part(nest, block, block.body.value if plain else None)


def _only_reader(part: _Part, later: list[_Part], root: s_tir.SBlock) -> _Part | None:
    """Return the one later block that reads what `part` stores, if `part` can be merged into it."""
    if not part.is_elementwise() or not any(part.buffer.same_as(buffer) for buffer in root.alloc_buffers):
        return None
    readers = [other for other in later if other.loads(part.buffer)]
    if len(readers) != 1 or readers[0].value is None:
        return None
    reader = readers[0]
    same = len(reader.axes) == len(part.axes) and all(
        int(theirs.iter_type) == facts.SPATIAL and tvm_ffi.structural_equal(mine.dom.extent, theirs.dom.extent)
        for mine, theirs in zip(part.axes, reader.axes, strict=True)
    )
    in_place = same and all(facts.is_identity(load.indices, reader.axes) for load in reader.loads(part.buffer))
    return reader if in_place else None
