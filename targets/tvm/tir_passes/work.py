"""The amount of computation and data of an unscheduled PrimFunc."""

from __future__ import annotations

import math
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, s_tir, tirx

BYTES = "graphopt.bytes"
"""The attribute of a PrimFunc that `measure_bytes` sets."""


def arithmetic(func: tirx.PrimFunc) -> float:
    """Return the arithmetic operations of one call as TVM counts them; 0 if it cannot."""
    try:
        return float(s_tir.analysis.estimate_tir_flops(tvm.IRModule({"main": func})))
    except (RuntimeError, ValueError, TypeError):
        return 0.0


@tvm.transform.module_pass(opt_level=0)
def measure_bytes(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Record for every function of known sizes what it reads and writes, after FuseTIR and before scheduling."""
    for name, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc) and (size := bytes_moved(func)) is not None:
            mod.update_func(name, func.with_attr(BYTES, size))
    return mod


def bytes_moved(func: tirx.PrimFunc) -> int | None:
    """Return the bytes that one call must read and write: each tensor element once, of a table only the rows read.

    None if a size is open.
    """
    reads, writes = _accesses(func)
    total = 0
    for param in func.params:
        if not isinstance(param.ty, tirx.BufferType):
            continue
        elements = _product(param.shape)
        if elements is None:
            return None
        touched = writes if param in writes else reads
        total += min(elements, touched.get(param, elements)) * _width(str(param.dtype))
    return total


def _width(dtype: str) -> int:
    return max(1, tvm.DataType(dtype).bits // 8)


def _product(sizes: Any) -> int | None:
    numbers = [int(size) for size in sizes if isinstance(size, tirx.IntImm)]
    return math.prod(numbers) if len(numbers) == len(sizes) else None


def _accesses(func: tirx.PrimFunc) -> tuple[dict[Any, int], dict[Any, int]]:
    """Return how many elements blocks load from and store to each buffer, except buffers that other code accesses."""
    reads: dict[Any, int] = {}
    writes: dict[Any, int] = {}
    blocks: list[s_tir.SBlock] = []
    tvm_ffi.structural_walk(func.body, [(s_tir.SBlock, blocks.append)])
    for block in blocks:
        times = _product([axis.dom.extent for axis in block.iter_vars])
        if not block.iter_vars or times is None:
            continue
        loads: list[ir.TensorLoad] = []
        stores: list[tirx.BufferStore] = []
        loops: list[tirx.For] = []
        kinds = [(ir.TensorLoad, loads.append), (tirx.BufferStore, stores.append), (tirx.For, loops.append)]
        tvm_ffi.structural_walk(block.body, kinds)
        if loops:
            continue
        for store in stores:
            writes[store.buffer] = writes.get(store.buffer, 0) + times
        for load in loads:
            reads[load.source] = reads.get(load.source, 0) + times
    return reads, writes
