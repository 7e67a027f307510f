"""Decomposition of a fused function, and its reassembly around the loop nest of a kernel family.

A family that controls every register and loop writes its nest as statements instead of using schedule primitives. The
epilogue that Relax fused after its anchor is included:

    fused = take_apart(func, "conv_direct", machine)     # None for a function of another family
    data, weight = fused.inputs
    def nest():                                          # uses tvm.script's IRBuilder
        with T.parallel(0, rows) as y: ...; fused.store([n, c, y, x, lane], value)
    return put_together(fused, nest)

`fused.store` writes one element of the result: the anchor's value after bias, residual, activation and any other
elementwise operation; `fused.store_tile` writes a register tile. Blocks that read the result in another way keep a
generic schedule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.s_tir import Schedule
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.cpu import generic as generic_cpu
from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common import epilogue, narrow, statements, steps
from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.narrow import Narrowing
from graphopt.targets.tvm.machine import Machine

UNROLLED_COST = 40
"""The number of operations above which an epilogue is not unrolled for each vector of a register tile."""

Start = Callable[[Sequence[Any]], Any]
"""Returns what the sum at some indices of a result starts with."""


@dataclass(frozen=True)
class Fused:
    """A fused function with its anchor separated."""

    func: tirx.PrimFunc
    anchor: s_tir.SBlock
    """The anchor's block, whose annotations contain the plan."""
    inputs: tuple[tirx.Buffer, ...]
    """The buffers that the anchor reads, in the order of its compute definition."""
    output: tirx.Buffer
    """The buffer that the anchor itself writes."""
    finals: tuple[s_tir.SBlock, ...]
    """The elementwise blocks of the epilogue."""
    machine: Machine
    """The processor whose instructions the epilogue may use."""
    keeps_output: bool
    """Whether something other than `finals` reads the anchor's own result."""

    @property
    def shape(self) -> tuple[Any, ...]:
        """The extents of the anchor's result, which may be written into a part of something larger."""
        return tuple(axis.dom.extent for axis in self.anchor.iter_vars if int(axis.iter_type) == facts.SPATIAL)

    def plan(self) -> tuple[int, ...]:
        """Return the numbers that the family put into the annotation `plan`."""
        return tuple(int(number) for number in self.anchor.annotations["plan"])

    def started(self) -> tuple[Fused, Start]:
        """Return the function without the sum of integers that its epilogue begins with, and the addend by indices.

        Accumulators that start as the addend save the addition. It is 0 for any other epilogue.
        """
        kind = str(self.output.dtype)
        found = None if self.keeps_output or kind != "int32" else epilogue.first_sum(self.finals, self.output)
        if found is None:
            return self, lambda indices: tirx.const(0, kind)
        final, addend = found

        def start(indices: Sequence[Any]) -> Any:
            return self._renamed(addend, self._places(final, indices), None)

        return dataclasses.replace(self, finals=(final,)), start

    def store(self, indices: Sequence[Any], value: Any) -> None:
        """Emit the epilogue's stores for `value`, the anchor's result at `indices`."""
        indices = [long(index) for index in indices]
        if self.keeps_output:
            axes = [axis for axis in self.anchor.iter_vars if int(axis.iter_type) == facts.SPATIAL]
            places = {axis.var: index for axis, index in zip(axes, indices, strict=True)}
            written = self.anchor.body.indices
            T.buffer_store(self.output, value, [self._renamed(index, places, value) for index in written])
        for block in self.finals:
            value_there = self._renamed(block.body.value, self._places(block, indices), value)
            T.buffer_store(block.body.buffer, value_there, self._indices(block, indices, value))

    def store_tile(self, vectors: Sequence[tuple[int, ...]], lanes: int, place: Any, value: Any) -> None:
        """Emit the stores of a register tile: `lanes` elements for each of `vectors`, the indices of a whole grid.

        `place(*vector, lane)` returns the indices of an element in the result, `value(*vector, lane)` the anchor's
        value. The stores are unrolled over the vectors, or else are a loop over a copy of the tile: the code of long
        epilogues would grow with the tile, and a loop over the registers themselves would keep these in memory all the
        time.
        """
        if len(vectors) == 1 or sum(facts.cost(block) for block in self.finals) <= UNROLLED_COST:
            narrowing = self._narrowing(vectors, lanes, place)
            for group in [[vector] for vector in vectors] if narrowing is None else narrow.groups(vectors):
                if narrowing is not None and len(group) > 1:
                    self._store_bytes(narrowing, group, place, value)
                    continue
                with vectorized(lanes) as lane:
                    self.store(place(*group[0], lane), value(*group[0], lane))
            return
        shape = tuple(max(axis) + 1 for axis in zip(*vectors, strict=True))
        copy = T.alloc_buffer((*shape, lanes), str(self.output.dtype))
        for vector in vectors:
            with vectorized(lanes) as lane:
                T.buffer_store(copy, value(*vector, lane), [*map(long, vector), lane])
        with T.grid(*map(long, shape)) as index:
            index = index if len(shape) > 1 else [index]
            with vectorized(lanes) as lane:
                self.store(place(*index, lane), copy[(*index, lane)])

    def _places(self, block: s_tir.SBlock, indices: Sequence[Any]) -> dict[Any, Any]:
        return {axis.var: long(index) for axis, index in zip(block.iter_vars, indices, strict=True)}

    def _indices(self, block: s_tir.SBlock, indices: Sequence[Any], value: Any) -> list[Any]:
        """Return where a block of the epilogue stores the element of the anchor's result at `indices`."""
        places = self._places(block, indices)
        return [self._renamed(index, places, value) for index in block.body.indices]

    def _narrowing(self, vectors: Sequence[tuple[int, ...]], lanes: int, place: Any) -> Narrowing | None:
        """Return how vectors of a tile are stored together; None if they are not adjacent bytes."""
        if self.keeps_output or len(self.finals) > 1:
            return None
        (block,) = self.finals
        found = Narrowing.of(block.body.value, lanes, self.machine)
        (*outer, first), last = min(vectors), max(vectors)[-1]
        if found is None or first == last:
            return None
        here, there = (self._indices(block, place(*outer, first + i, long(0)), None) for i in (0, 1))
        return found if narrow.is_adjacent(block.body.buffer, here, there, lanes) else None

    def _store_bytes(self, narrowing: Narrowing, group: Sequence[tuple[int, ...]], place: Any, value: Any) -> None:
        """Emit the store of adjacent vectors of bytes."""
        (block,) = self.finals
        lanes, buffer = narrowing.lanes, block.body.buffer
        words = T.alloc_buffer((len(group) * lanes,), "int32", scope="local")
        for number, vector in enumerate(group):
            with vectorized(lanes) as lane:
                places = self._places(block, place(*vector, lane))
                word = self._renamed(narrowing.number, places, value(*vector, lane))
                T.buffer_store(words, word, [long(number * lanes) + lane])
        *outer, start = self._indices(block, place(*group[0], long(0)), None)
        where = [*outer, tirx.Ramp(start, long(1), len(group) * lanes)]
        T.buffer_store(buffer, narrowing.bytes(words, len(group)), where)

    def _renamed(self, expr: Any, places: dict[Any, Any], value: Any) -> Any:
        def load(node: ir.TensorLoad) -> Any:
            return value if node.source.same_as(self.output) else node

        def variable(var: tirx.Var) -> Any:
            return next((place for old, place in places.items() if old.same_as(var)), var)

        return tvm_ffi.structural_map(expr, [(ir.TensorLoad, load), (tirx.Var, variable)], order="post")


def take_apart(func: tirx.PrimFunc, kernel: str, machine: Machine) -> Fused | None:
    """Decompose a function whose anchor is annotated as `kernel`; return None for any other one.

    The first extent of its result, the batch, may be unknown.
    """
    sch = Schedule(tvm.IRModule({"main": func}))
    anchor = facts.find_anchor(sch, (kernel,))
    if anchor is None or any(axis.size is None for axis in facts.axes_of(sch, anchor)[1:]):
        return None
    output = sch.get(anchor).writes[0].source
    finals = epilogue.finals(sch, anchor)
    names = [str(sch.get(block).name_hint) for block in (anchor, *finals)]
    sch = steps.schedule_others(sch, [anchor, *finals], machine, generic_cpu.schedule_block)
    blocks = [sch.get(sch.get_sblock(name)) for name in names]
    free = tuple(blocks[1:])
    return Fused(
        sch.mod["main"],
        blocks[0],
        epilogue.reads(blocks[0]),
        output,
        free,
        machine,
        keeps_output=not free or epilogue.is_read_elsewhere(sch, output, names),
    )


def put_together(fused: Fused, nest: Callable[[], None]) -> tirx.PrimFunc:
    """Return the function with the statements that `nest` emits instead of the anchor and what `fused.store` covers."""
    with IRBuilder() as builder, T.prim_func():
        nest()
    made = builder.get().body
    realize = fused.func.body
    root = realize.block
    names = [str(block.name_hint) for block in (fused.anchor, *fused.finals)]
    parts = list(root.body) if isinstance(root.body, tirx.SeqStmt) else [root.body]
    own = [index for index, part in enumerate(parts) if any(name in names for name in _block_names(part))]
    parts[own[-1]] = made
    parts = [part for index, part in enumerate(parts) if index not in own[:-1]]
    allocated = [buffer for buffer in root.alloc_buffers if fused.keeps_output or not buffer.same_as(fused.output)]
    block = s_tir.SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        parts[0] if len(parts) == 1 else tirx.SeqStmt(parts),
        root.init,
        allocated,
        root.match_buffers,
        root.annotations,
    )
    return fused.func.with_body(s_tir.SBlockRealize(realize.iter_values, realize.predicate, block))


def _block_names(part: tirx.Stmt) -> list[str]:
    found: list[str] = []
    tvm_ffi.structural_walk(part, [(s_tir.SBlock, lambda block: found.append(str(block.name_hint)))])
    return found


def serial(extent: Any) -> Any:
    """Return a loop from 0 with a 64-bit variable (a context manager that returns the variable)."""
    return T.serial(long(0), long(extent))


def parallel(extent: Any) -> Any:
    """Return a loop from 0 whose iterations are distributed over threads; a plain loop for a single iteration."""
    alone = facts.extent(extent) in (0, 1)
    return serial(extent) if alone else T.parallel(long(0), long(extent))


def spread(extent: Any, work: Any) -> Any:
    """Return a loop from 0 that runs on several threads unless its `work`, in operations, is known to be too little."""
    operations = facts.extent(work)
    few = operations is not None and operations < facts.SERIAL_WORK
    return serial(extent) if few else parallel(extent)


def vectorized(lanes: int) -> Any:
    """Return a loop from 0 that becomes one vector."""
    return T.vectorized(long(0), long(lanes))


def prefetch(buffer: Any, index: Sequence[Any], level: int) -> None:
    """Emit a prefetch of the cache line of an element, which may be outside the buffer."""
    T.evaluate(statements.prefetch(buffer, index, level).value)


def even_split(size: int, most: int) -> list[tuple[int, int, int]]:
    """Divide `size` into as few pieces of at most `most` as possible, all equal or one less.

    Return runs (first position, length of a piece, number of pieces), at most two.
    """
    pieces = -(-size // most)
    short, longer = size // pieces, size % pieces
    runs = [(0, short + 1, longer), (longer * (short + 1), short, pieces - longer)]
    return [run for run in runs if run[2] and run[1]]


def stored(value: Any) -> Any:
    """Return a value from a buffer that LLVM keeps in a register.

    TVM's simplifiers substitute a bound value (`T.bind`) into each of its uses again, even during code generation.
    """
    place = T.alloc_buffer((1,), str(value.ty.dtype), scope="local")
    T.buffer_store(place, value, [long(0)])
    return place[long(0)]
