"""Compute definitions whose indices are 64 bits wide, as those of symbolic sizes are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx


def define(sizes: Sequence[Any], element: Callable[..., Any], name: str) -> Any:
    """`te.compute` over `sizes` (ints or expressions): a tensor, or one for each value that `element` returns."""
    extents = [tirx.IntImm("int64", int(size)) if isinstance(size, int | tirx.IntImm) else size for size in sizes]
    return te.compute(extents, element, name=name)
