"""Takes a function apart whose code would be too large: its kernel, and what was fused after it.

A kernel repeats its epilogue for each form of its tiles: at the edges, for a rest of rows, in vectors and in single
elements. Where that comes to too much code, the kernel stores its plain result, and a loop nest of its own computes
the rest from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import Schedule

from graphopt.targets.tvm.kernels.common import blocks as facts

MOST_OPERATIONS = 8000
"""Operations of a function (`code_size`) above which it is taken apart: some seconds of code generation."""


@dataclass(frozen=True)
class Parts:
    """A function in two parts, with the kernel's result as the last parameter of both."""

    result: tirx.Buffer
    kernel: tirx.PrimFunc
    rest: tirx.PrimFunc


def split(func: tirx.PrimFunc) -> Parts | None:
    """Split a function that is not scheduled after its kernel: up to what that stores, and all that follows.

    None for a function with another number of kernels than one, one in which nothing follows the kernel, or what
    follows reads more of what was computed before than the kernel's result.
    """
    root = func.body.block if isinstance(func.body, s_tir.SBlockRealize) else None
    if root is None or not isinstance(root.body, tirx.SeqStmt) or root.match_buffers:
        return None
    sch = Schedule(tvm.IRModule({"main": func}))
    blocks = facts.child_blocks(sch)
    parts = list(root.body)
    anchors = [i for i, block in enumerate(blocks) if "kernel" in sch.get(block).annotations]
    if len(anchors) != 1 or len(blocks) != len(parts):
        return None
    last = _last_of_kernel(sch, blocks, anchors[0])
    if last + 1 >= len(parts):
        return None
    result = sch.get(blocks[last]).writes[0].source
    earlier = {hash(sch.get(block).writes[0].source) for block in blocks[:last]}
    later = [region.source for block in blocks[last + 1 :] for region in sch.get(block).reads]
    if any(hash(buffer) in earlier for buffer in later):
        return None  # what follows reads more than the kernel's result
    written = {hash(sch.get(block).writes[0].source) for block in blocks[: last + 1]}
    params = list(func.params)
    inner = [buffer for buffer in root.alloc_buffers if not buffer.same_as(result)]
    if not any(buffer.same_as(result) for buffer in root.alloc_buffers):
        return None  # it is a result of the function
    kernel = _function(func, [*params, result], parts[: last + 1], [b for b in inner if hash(b) in written])
    rest = _function(func, [*params, result], parts[last + 1 :], [b for b in inner if hash(b) not in written])
    return Parts(result, kernel, rest)


def join(func: tirx.PrimFunc, parts: Parts) -> tirx.PrimFunc:
    """The function that does what its two parts do, which have been scheduled."""
    body = tirx.SeqStmt([parts.kernel.body, parts.rest.body])
    root = s_tir.SBlock([], [], [], "root", body, None, [parts.result], [], {})
    return func.with_body(s_tir.SBlockRealize([], tirx.const(True, "bool"), root))


def _last_of_kernel(sch: Schedule, blocks: list[s_tir.schedule.SBlockRV], anchor: int) -> int:
    """The position of the last block that belongs to the kernel: the anchor, or the plain copy of its result."""
    following = anchor + 1
    if following == len(blocks):
        return anchor
    stmt = sch.get(blocks[following])
    copies = isinstance(stmt.body, tirx.BufferStore) and isinstance(stmt.body.value, tvm.ir.TensorLoad)
    reads = [region.source for region in stmt.reads]
    own = sch.get(blocks[anchor]).writes[0].source
    return following if copies and len(reads) == 1 and reads[0].same_as(own) else anchor


def _function(
    func: tirx.PrimFunc, params: list[tirx.Var], parts: list[tirx.Stmt], allocated: list[tirx.Buffer]
) -> tirx.PrimFunc:
    body = parts[0] if len(parts) == 1 else tirx.SeqStmt(parts)
    root = s_tir.SBlock([], [], [], "root", body, None, allocated, [], {})
    realize = s_tir.SBlockRealize([], tirx.const(True, "bool"), root)
    return tirx.PrimFunc(params, realize, func.ret_type, func.attrs)
