"""Compute definitions with 64-bit indices, like those of symbolic sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx


def define(sizes: Sequence[Any], element: Callable[..., Any], name: str) -> Any:
    """Return `te.compute` over `sizes` (ints or expressions): a tensor, or one per value that `element` returns."""
    extents = [tirx.IntImm("int64", int(size)) if isinstance(size, int | tirx.IntImm) else size for size in sizes]
    return te.compute(extents, element, name=name)


def flat_with_offset(shape: Sequence[int], limit: int) -> Callable[[Any], Any]:
    """Flatten a tensor to int64, clamped to -limit..limit and increased by `limit`, so that none is negative."""

    def sizes(x: Any) -> Any:
        def element(flat: Any) -> Any:
            index: list[Any] = []
            for extent in reversed(shape):
                index.insert(0, tirx.indexmod(flat, extent))
                flat = tirx.indexdiv(flat, extent)
            value = tirx.max(tirx.min(x(*index).astype("int64"), offset), -offset)
            return value + offset

        offset = tirx.IntImm("int64", limit)
        return define((math.prod(shape),), element, name="sizes")

    return sizes
