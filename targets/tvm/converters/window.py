"""Sliding windows over padded spatial axes, as used by convolutions and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx

from graphopt.targets.tvm.lowering.call import Call
from graphopt.targets.tvm.lowering.operand import Dim, Operand
from graphopt.targets.tvm.lowering.registry import Declined


@dataclass(frozen=True)
class Window:
    """The geometry of a sliding window, one entry per spatial axis in each tuple."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[Dim, ...]
    end: tuple[Dim, ...]
    output: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.kernel)


def int_expr(value: Dim) -> tirx.Expr:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def read_window(c: Call, data: Operand, kernel: Sequence[int]) -> Window:
    """Return the window that a node's attributes describe over the spatial axes (from axis 2 on) of `data`.

    Like ONNX Runtime, which dilates no convolution with automatic padding, this pads for the window without dilation.
    """
    rank = data.rank - 2
    if rank < 1 or len(kernel) != rank:
        raise Declined(f"a window of {len(kernel)} axes over data of rank {data.rank}")
    strides = tuple(int(s) for s in c.attr("strides") or [1] * rank)
    dilations = tuple(int(d) for d in c.attr("dilations") or [1] * rank)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    begin, end = _pads(c, data.shape[2:], kernel, strides)
    output = []
    for size, span, stride, low, high in zip(data.shape[2:], spans, strides, begin, end):
        count = _positions(c, size, span, stride, low, high)
        if isinstance(count, int) and count < 0:
            raise Declined(f"a window of {span} over data of {size} with padding of {low} and {high}")
        output.append(count)
    return Window(tuple(kernel), strides, dilations, tuple(begin), tuple(end), c.ctx.shape(output))


def _pads(c: Call, sizes: Sequence[Dim], kernel: Sequence[int], strides: Sequence[int]) -> tuple[list[Dim], list[Dim]]:
    """Return the padding before and after each spatial axis."""
    mode, rank = c.attr("auto_pad", "NOTSET") or "NOTSET", len(sizes)
    if mode == "VALID":
        return [0] * rank, [0] * rank
    if mode == "NOTSET":
        pads = [int(p) for p in c.attr("pads") or [0] * (2 * rank)]
        return list(pads[:rank]), list(pads[rank:])
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise Declined(f"auto_pad {mode!r}")
    begin: list[Dim] = []
    end: list[Dim] = []
    for size, taps, stride in zip(sizes, kernel, strides):
        total = (size + (stride - 1)) // stride * stride - stride + taps - size
        total = max(total, 0) if isinstance(total, int) else tirx.max(total, int_expr(0))
        half = c.ctx.symbols.simplify(total // 2)
        rest = c.ctx.symbols.simplify(total - half)
        begin.append(half if mode == "SAME_UPPER" else rest)
        end.append(rest if mode == "SAME_UPPER" else half)
    return begin, end


def _positions(c: Call, size: Dim, span: int, stride: int, low: Dim, high: Dim) -> Dim:
    """Return the number of positions of a window along one axis."""
    room = size + low + high - span
    if not c.attr("ceil_mode", 0):
        if isinstance(room, int) and room < 0:
            # Like ONNX Runtime: a pooling window longer than the data is cut if it ends within one more stride.
            return int(room / stride) + 1
        return c.ctx.symbols.simplify(int_expr(room) // stride + 1)
    count = c.ctx.symbols.simplify((int_expr(room) + (stride - 1)) // stride + 1)
    # A last window that would begin in the padding at the end is dropped.
    begins_late = (int_expr(count) - 1) * stride >= int_expr(size + low)
    decided = c.ctx.symbols.decide(begins_late)
    if isinstance(decided, bool):
        return c.ctx.symbols.simplify(int_expr(count) - 1) if decided else count
    return int_expr(count) - tirx.Select(begins_late, int_expr(1), int_expr(0))
