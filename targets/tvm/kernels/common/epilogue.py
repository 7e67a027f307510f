"""What is fused with a kernel: the blocks after its anchor that compute its epilogue element by element."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.s_tir import Schedule, ScheduleError
from tvm.s_tir.schedule import SBlockRV

from graphopt.targets.tvm.kernels.common import blocks as facts
from graphopt.targets.tvm.kernels.common import statements


def finals(sch: Schedule, anchor: SBlockRV) -> list[SBlockRV]:
    """Inline what is computed element by element from the anchor's result; return the remaining blocks of that kind."""
    own = {str(sch.get(block).name_hint) for block in _elementwise(sch, anchor)}
    changed = True
    while changed:
        changed = False
        for name in sorted(own):
            block = sch.get_sblock(name)
            readers = [str(sch.get(reader).name_hint) for reader in sch.get_consumers(block)]
            if readers and all(reader in own for reader in readers):
                try:
                    sch.compute_inline(block)
                except ScheduleError:
                    continue
                own.discard(name)
                changed = True
                break
    ordered = [block for block in facts.child_blocks(sch) if str(sch.get(block).name_hint) in own]
    if not ordered:
        return []
    # Other blocks in between must not wait for the nest, nor the nest for them.
    first, last = facts.index_of(sch, anchor), facts.index_of(sch, ordered[-1])
    return ordered if last - first == len(ordered) else []


def _elementwise(sch: Schedule, anchor: SBlockRV) -> Iterator[SBlockRV]:
    """Yield the blocks after the anchor that have its axes and read its result, or what follows, elementwise."""
    shape = [axis.extent for axis in facts.axes_of(sch, anchor) if axis.kind == facts.SPATIAL]
    known = [sch.get(anchor).writes[0].source]
    for block in facts.child_blocks(sch)[facts.index_of(sch, anchor) + 1 :]:
        stmt = sch.get(block)
        axes = stmt.iter_vars
        same = len(axes) == len(shape) and all(
            int(axis.iter_type) == facts.SPATIAL and tvm_ffi.structural_equal(axis.dom.extent, size)
            for axis, size in zip(axes, shape, strict=True)
        )
        if not same or not isinstance(stmt.body, tirx.BufferStore):
            continue
        read = [load for load in statements.loads(stmt.body) if any(load.source.same_as(buffer) for buffer in known)]
        if read and all(facts.is_identity(load.indices, axes) for load in read):
            if facts.is_identity(stmt.body.indices, axes):
                known.append(stmt.body.buffer)
            yield block


def first_sum(finals: Sequence[s_tir.SBlock], output: tirx.Buffer) -> tuple[s_tir.SBlock, Any] | None:
    """Return the only block without the number that it adds to each element of `output`, and that number."""
    if len(finals) != 1:
        return None
    (block,) = finals
    addends: list[Any] = []

    def plain(node: tirx.Add) -> Any:
        for load, addend in ((node.a, node.b), (node.b, node.a)):
            if isinstance(load, ir.TensorLoad) and load.source.same_as(output):
                addends.append(addend)
                return load
        return node

    def count(expr: Any) -> int:
        return sum(load.source.same_as(output) for load in statements.loads(expr))

    body = block.body
    value = tvm_ffi.structural_map(body.value, (tirx.Add, plain), order="post")
    if not addends or len(addends) != count(body.value) or any(map(count, addends)):
        return None
    alike = all(tvm_ffi.structural_equal(addends[0], other) for other in addends[1:])
    if not alike or _holds_call(addends[0]):  # the call may be a named value, which has no meaning elsewhere
        return None
    store = tirx.BufferStore(body.buffer, value, body.indices)
    kept = (block.iter_vars, block.reads, block.writes, block.name_hint, store, block.init)
    return s_tir.SBlock(*kept, block.alloc_buffers, block.match_buffers, block.annotations), addends[0]


def _holds_call(expr: Any) -> bool:
    found: list[bool] = []
    tvm_ffi.structural_walk(expr, (ir.Call, lambda _: found.append(True)))
    return bool(found)


def reads(block: s_tir.SBlock) -> tuple[tirx.Buffer, ...]:
    """Return the buffers that a reduction reads, without its own result, in the order in which its body loads them."""
    written = block.writes[0].source
    found: list[Any] = []
    for load in statements.loads(block.body):
        if not load.source.same_as(written) and not any(load.source.same_as(buffer) for buffer in found):
            found.append(load.source)
    return tuple(found)


def is_read_elsewhere(sch: Schedule, buffer: tirx.Buffer, names: Sequence[str]) -> bool:
    """Return whether a block that is not named reads a buffer."""
    others = [block for block in facts.child_blocks(sch) if str(sch.get(block).name_hint) not in names]
    return any(region.source.same_as(buffer) for block in others for region in sch.get(block).reads)
