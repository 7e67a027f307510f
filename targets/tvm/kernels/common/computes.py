"""Helpers of compute definitions: extents, reduction axes, accumulators, maxima."""

from __future__ import annotations

import math
from typing import Any

from tvm import sym, te, tirx

OUT_EWISE_FUSABLE = 4  # TOpPattern: elementwise consumers are fused into it


def accumulator(dtype: str) -> str:
    """Return the type in which products of `dtype` are summed."""
    if dtype in ("float16", "bfloat16"):
        return "float32"
    return "int32" if dtype in ("int8", "uint8", "int16", "uint16") else dtype


def long(size: Any) -> Any:
    """Return an extent as int64, as symbolic extents are: mixed widths leave casts that defeat region analysis."""
    return tirx.IntImm("int64", int(size)) if isinstance(size, int | tirx.IntImm) else size


def reduce_axis(size: int, name: str) -> tirx.IterVar:
    """Return a reduction axis with an int64 index."""
    return te.reduce_axis((long(0), long(size)), name)


def simplified(size: Any) -> Any:
    """Return an extent in its simplest form."""
    return long(size if isinstance(size, int | tirx.IntImm) else sym.Analyzer().simplify(size))


def lowest(dtype: str) -> tirx.Expr:
    """Return a lower bound of every value of the type."""
    if dtype == "bool":
        return tirx.const(False, dtype)
    return tirx.const(-math.inf, dtype) if dtype.startswith("float") else tirx.min_value(dtype)


max_over = te.comm_reducer(lambda a, b: tirx.Max(a, b), lowest, name="max_over")
"""The maximum over axes; unlike TVM's own, that of infinities below zero is one of them, and no finite number."""
