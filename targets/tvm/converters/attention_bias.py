"""The bias that attention adds to its scores before the softmax: masks, causality, lengths of padded sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from graphopt.targets.tvm.converters.window import int_expr
from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.operand import Dim, Operand


def mask_of(c: Call, shape: tuple[Dim, ...]) -> Operand | None:
    """Return the mask, whose sizes are 1 or those of the scores; its last axis may be shorter."""
    mask = c.input(3)
    if mask is None:
        return None
    wanted: list[Dim] = []
    for axis in range(mask.rank):
        have, want = mask.shape[axis], shape[axis - mask.rank]
        short = axis == mask.rank - 1 and isinstance(have, int) and isinstance(want, int) and have < want
        wanted.append(have if short or (isinstance(have, int) and have == 1) else want)
    return c.ctx.require(mask, wanted)


@dataclass(frozen=True)
class Bias:
    """Everything that is added to the scores: mask, causal frontier, sliding window, padding of the keys."""

    mask: Operand | None
    lengths: Operand | None
    past: Dim
    queries: Dim
    keys: Dim
    causal: bool
    left: int
    right: int
    kind: str

    @property
    def operands(self) -> list[Operand]:
        return [operand for operand in (self.mask, self.lengths) if operand is not None]

    @property
    def is_empty(self) -> bool:
        return not (self.operands or self.causal or self.left >= 0 or self.right >= 0)

    def at(self, tensors: list[te.Tensor], b: Any, h: Any, i: Any, j: Any) -> tirx.Expr:
        """Return the bias of one score: a number, or -inf if the key is masked."""
        rest = list(tensors)
        nothing = tirx.const(0, self.kind)
        bias, allowed = nothing, tirx.const(True, "bool")
        if self.mask is not None:
            place = [b, h, i, j][4 - self.mask.rank :]
            tensor = rest.pop(0)
            index = [
                int_expr(0) if isinstance(size, int) and size == 1 and not (axis == 3 and self._is_short()) else p
                for axis, (size, p) in enumerate(zip(self.mask.shape, place), 4 - self.mask.rank)
            ]
            if self._is_short():
                last = int_expr(self.mask.shape[-1])
                allowed = tirx.And(allowed, j < last)
                index[-1] = tirx.min(j, last - int_expr(1))
            if self.mask.dtype == "bool":
                allowed = tirx.And(allowed, tensor(*index))
            else:
                bias = tensor(*index).astype(self.kind)
        position = i + int_expr(self.past)
        if self.lengths is not None:
            count = rest.pop(0)(b).astype("int64")
            allowed = tirx.And(allowed, j < count)
            position = i + count - int_expr(self.queries)
        if self.causal:
            allowed = tirx.And(allowed, j <= position)
        if self.left >= 0:
            allowed = tirx.And(allowed, position - j <= int_expr(self.left))
        if self.right >= 0:
            allowed = tirx.And(allowed, j - position <= int_expr(self.right))
        return tirx.Select(allowed, bias, tirx.const(-math.inf, self.kind))

    def _is_short(self) -> bool:
        mine = self.mask.shape[-1] if self.mask is not None else 1
        return isinstance(mine, int) and isinstance(self.keys, int) and mine < self.keys and self.mask is not None


def bias_of(c: Call, shape: tuple[Dim, ...], past: Dim, kind: str) -> Bias:
    left, right = int(c.attr("left_window_size", -1)), int(c.attr("right_window_size", -1))
    lengths = c.input(6)
    if lengths is not None:
        lengths = c.ctx.require(lengths, [shape[0]])
    causal = bool(c.attr("is_causal", 0))
    return Bias(mask_of(c, shape), lengths, past, shape[2], shape[3], causal, left, right, kind)
