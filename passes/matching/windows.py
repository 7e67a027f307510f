"""Padding of windows, as numbers."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import Dim, Node


def explicit_pads(node: Node, sizes: Sequence[Dim], kernel: Sequence[int]) -> list[int] | None:
    """Return the padding before and after each spatial axis, whatever `auto_pad` is; None if it depends on the input.

    `sizes`: those of the data; `kernel`: those of the window.
    """
    mode = node.attr("auto_pad", "NOTSET") or "NOTSET"
    if mode == "NOTSET":
        return list(node.attr("pads") or [0] * (2 * len(kernel)))
    if mode == "VALID":
        return [0] * (2 * len(kernel))
    strides = node.attr("strides") or [1] * len(kernel)
    dilations = node.attr("dilations") or [1] * len(kernel)
    begin, end = [], []
    for size, taps, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        if not isinstance(size, int):
            return None
        span = (taps - 1) * dilation + 1
        total = max((-(-size // stride) - 1) * stride + span - size, 0)
        begin.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
        end.append(total - begin[-1])
    return begin + end
