"""Compile one PrimFunc through the scheduler and run it on numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import tvm
from tvm import te, tirx

from graphopt.hardware.target import load
from graphopt.targets.tvm.codegen.build import tvm_target
from graphopt.targets.tvm.cpu.schedule import schedule_function
from graphopt.targets.tvm.machine import Machine, machine_of
from graphopt.targets.tvm.tir_passes.pipeline import PIPELINE

HOST = tvm_target(replace(load("host"), cores=2))
MACHINE: Machine = machine_of(HOST)
"""The processor that runs the tests, for tests that run code. What a schedule looks like is asked for a named one."""


def placeholder(shape: Sequence[object], dtype: str = "float32", name: str = "x") -> te.Tensor:
    """A tensor with int64 extents, as Relax makes them (mixed index types are not what the scheduler meets)."""
    return te.placeholder([tirx.IntImm("int64", n) if isinstance(n, int) else n for n in shape], dtype, name)


def scheduled(tensors: Sequence[te.Tensor], machine: Machine = MACHINE) -> tirx.PrimFunc:
    """The scheduled function of a TE graph: inputs then outputs."""
    return schedule_function(te.create_prim_func(list(tensors)), machine)


@lru_cache(maxsize=1)
def library_of(func: tirx.PrimFunc) -> tvm.runtime.Executable:
    """The compiled function; the last one is kept, for tests that call one function with several sizes."""
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    return tvm.compile(module, HOST, tir_pipeline=PIPELINE)


def execute(func: tirx.PrimFunc, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Run `func` on copies of the arrays; returns the outputs."""
    results = [tvm.runtime.tensor(np.full_like(array, 7)) for array in outputs]  # 7: whatever stays unwritten shows
    arguments = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in inputs]
    library_of(func)["main"](*arguments, *results)
    return [result.numpy() for result in results]


def run_te(
    tensors: Sequence[te.Tensor], inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Schedule, compile and run a TE graph."""
    return execute(scheduled(tensors), inputs, outputs)
