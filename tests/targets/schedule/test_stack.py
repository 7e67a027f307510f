"""Accumulators of loop nests live on the stack of the function that uses them, never in heap memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from graphopt.targets.tvm.kernels.common.computes import long
from graphopt.targets.tvm.kernels.common.nest import parallel, serial, vectorized
from graphopt.targets.tvm.tir_passes.pipeline import PIPELINE
from tests.targets.schedule.support import HOST

ROWS, WIDTH, LANES = 6, 50, 8


def row_sums(scope: str, wrapped: bool) -> tirx.PrimFunc:
    """Sums of vectors along rows, in an accumulator of memory scope `scope`, `wrapped` in a function of its own."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("main")
        T.func_attr({"tirx.noalias": True})
        x = T.arg("x", T.Buffer((ROWS, WIDTH, LANES), "float32"))
        y = T.arg("y", T.Buffer((ROWS, LANES), "float32"))
        done = T.arg("done", T.Buffer((ROWS, LANES), "float32"))
        with parallel(ROWS) as row:

            def body() -> None:
                total = T.alloc_buffer((LANES,), "float32", scope=scope)
                with vectorized(LANES) as lane:
                    T.buffer_store(total, tirx.const(0, "float32"), [lane])
                with serial(WIDTH) as i, vectorized(LANES) as lane:
                    T.buffer_store(total, total[lane] + x[row, i, lane], [lane])
                with vectorized(LANES) as lane:
                    T.buffer_store(y, total[lane], [row, lane])

            if wrapped:
                with T.attr(long(0), "compute_scope", "inner"):
                    body()
            else:
                body()
            with vectorized(LANES) as lane:  # TVM wants something after such a function
                T.buffer_store(done, tirx.const(1, "float32"), [row, lane])
    return builder.get()


def compiled(func: tirx.PrimFunc) -> Any:
    return tvm.compile(tvm.IRModule({"main": func}), HOST, tir_pipeline=PIPELINE)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_local_accumulator_needs_no_memory(wrapped: bool) -> None:
    library = compiled(row_sums("local", wrapped))
    code = library.mod.inspect_source("ll")
    assert "TVMBackendAllocWorkspace" not in code
    assert ("@inner(" in code) is wrapped
    data = np.random.default_rng(0).standard_normal((ROWS, WIDTH, LANES)).astype(np.float32)
    result, done = (tvm.runtime.tensor(np.zeros((ROWS, LANES), np.float32)) for _ in range(2))
    library["main"](tvm.runtime.tensor(data), result, done)
    np.testing.assert_allclose(result.numpy(), data.sum(axis=1), rtol=1e-4, atol=1e-5)


def test_the_accumulator_is_passed_to_no_function() -> None:
    code = compiled(row_sums("local", wrapped=True)).mod.inspect_source("ll")
    line = next(line for line in code.splitlines() if line.startswith("define") and "@inner(" in line)
    assert line.split("@inner(")[1].count("ptr ") == 2
