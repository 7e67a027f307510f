"""Compute definitions whose indices are 64 bits wide, as those of symbolic sizes are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx


def define(sizes: Sequence[Any], element: Callable[..., Any], name: str) -> Any:
    """`te.compute` over `sizes` (ints or expressions): a tensor, or one for each value that `element` returns."""
    extents = [tirx.IntImm("int64", int(size)) if isinstance(size, int | tirx.IntImm) else size for size in sizes]
    return te.compute(extents, element, name=name)


def flat_with_offset(shape: Sequence[int], limit: int) -> Callable[[Any], Any]:
    """The elements of a tensor in a row, as int64 brought into -limit..limit, and `limit` added: none is negative."""

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
