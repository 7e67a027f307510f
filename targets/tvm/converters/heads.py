"""The location of attention heads: often inside a wider matmul result, from which they are read without a copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from graphopt.ir import Node, Value
from graphopt.targets.tvm.lowering.emitter import Context
from graphopt.targets.tvm.lowering.operand import Dim, Operand

HEADS_SWAPPED = [0, 2, 1, 3]
"""The permutation between (batch, head, position, element) and (batch, position, head, element)."""


@dataclass(frozen=True)
class HeadView:
    """Heads of a tensor: `order` "bhsd" or "bshd" (rank 4), or "bsw" (rank 3, heads side by side from `offset` on)."""

    operand: Operand
    order: str
    heads: int
    size: int
    offset: int = 0

    @property
    def batch(self) -> Dim:
        return self.operand.shape[0]

    @property
    def length(self) -> Dim:
        return self.operand.shape[2 if self.order == "bhsd" else 1]

    def index(self, b: Any, h: Any, s: Any, d: Any) -> list[Any]:
        """The index of an element."""
        if self.order == "bhsd":
            return [b, h, s, d]
        return [b, s, h, d] if self.order == "bshd" else [b, s, h * self.size + d + self.offset]


def view_of(ctx: Context, value: Value, operand: Operand, heads: int) -> HeadView | None:
    """Return where the heads of an input of Attention are, seen through the Transpose, Reshape and Split before it.

    None if sizes are not known.
    """
    if operand.rank == 3:
        return _side_by_side(ctx, value, operand, heads)
    _, count, _, size = operand.shape
    if not isinstance(count, int) or not isinstance(size, int):
        return None
    before = _produced(ctx, value, "Transpose")
    if before is None or list(before[0].attr("perm") or []) != HEADS_SWAPPED:
        return HeadView(operand, "bhsd", count, size)
    _, middle, four = before
    reshape = _produced(ctx, middle, "Reshape")
    if reshape is not None and reshape[2].rank == 3:
        _, wide, three = reshape
        if ctx.same(three.shape[0], four.shape[0]) and ctx.same(three.shape[1], four.shape[1]):
            view = _side_by_side(ctx, wide, three, count)
            if view is not None:
                return view
    return HeadView(four, "bshd", count, size)


def _produced(ctx: Context, value: Value, op: str) -> tuple[Node, Value, Operand] | None:
    """The node that computes a value, if it is this operator, with its first input."""
    node = value.producer
    if node is None or node.op != op or node.inputs[0] is None:
        return None
    source = ctx.operand_of(node.inputs[0])
    return None if source is None or source.is_host else (node, node.inputs[0], source)


def _side_by_side(ctx: Context, value: Value, operand: Operand, heads: int) -> HeadView | None:
    width = operand.shape[2]
    if not heads or not isinstance(width, int) or width % heads:
        return None
    found = _produced(ctx, value, "Split")
    if found is not None and found[2].rank == 3 and found[0].attr("axis", 0) in (2, -1):
        node, _, whole = found
        parts = [None if output is None else ctx.operand_of(output) for output in node.outputs]
        place = next(i for i, output in enumerate(node.outputs) if output is value)
        before = [None if part is None else part.shape[2] for part in parts[:place]]
        if all(isinstance(size, int) for size in before):
            return HeadView(whole, "bsw", heads, width // heads, sum(int(size or 0) for size in before))
    return HeadView(operand, "bsw", heads, width // heads)


def joined_after(value: Value) -> Value | None:
    """Return the value in which the heads of an Attention's result are concatenated, if it has no other use."""
    transpose = value.sole_user
    if transpose is None or transpose.op != "Transpose" or list(transpose.attr("perm") or []) != HEADS_SWAPPED:
        return None
    after = transpose.output
    reshape = after.sole_user
    if reshape is None or reshape.op != "Reshape" or reshape.inputs[0] is not after:
        return None
    made, shape = reshape.output, value.shape
    if made.shape is None or shape is None or made.rank != 3 or value.rank != 4:
        return None
    sizes = [shape[0], shape[2], shape[1], shape[3]]
    if not isinstance(sizes[2], int) or not isinstance(sizes[3], int):
        return None
    same = made.shape[0] == sizes[0] and made.shape[1] == sizes[1] and made.shape[2] == sizes[2] * sizes[3]
    return made if same and None not in (sizes[0], sizes[1]) else None


Reader = Callable[[Any, Any, Any, Any], Any]


def reader(view: HeadView, buffer: tirx.Buffer) -> Reader:
    """Return a function that loads an element from the buffer of a view."""
    return lambda b, h, s, d: tirx.BufferLoad(buffer, view.index(b, h, s, d))
