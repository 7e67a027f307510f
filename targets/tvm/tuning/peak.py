"""Measurement of this machine's peak: the arithmetic of its vector units, and reading from its memory.

Arithmetic: a loop of independent multiply-adds on registers (12 vectors, more than latency times the number of units of
any supported processor), of float32 and of bytes, so no kernel with the same instruction set can be faster. Memory: a
sum over an array that is many times larger than any cache. All are compiled for the target and run on the requested
number of threads, and the best of many runs counts.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tvm
from tvm.script import tirx as T

from graphopt.driver.backend import Peak
from graphopt.hardware import processor as cpu
from graphopt.hardware.target import Target
from graphopt.targets.tvm import compat
from graphopt.targets.tvm.codegen.build import tvm_target
from graphopt.targets.tvm.kernels.common.dot import Dot, bytes_for, dot_for
from graphopt.targets.tvm.kernels.family import Dtypes
from graphopt.targets.tvm.machine import machine_of

_ACCUMULATORS = 12
_STEPS = 1 << 18  # multiply-adds per accumulator: about a millisecond
_DATA = 64  # different bytes to multiply, in groups of the width of an instruction
_ELEMENTS = 1 << 26  # floats to read: 256 MiB
_RUNS = 100


def measure_peak(target: Target, threads: int) -> Peak:
    """Return operations on floats and on bytes, and bytes read per second here, with the instructions of the target."""
    made_for = tvm_target(target)
    machine = machine_of(made_for)
    lanes = machine.lanes("float32")
    types = bytes_for(machine)
    dot = dot_for(types, lanes, machine)
    loops = {"flops": _flops(lanes, threads), "products": _products(dot, types, threads), "read": _read(lanes, threads)}
    with made_for:
        built = tvm.compile(tvm.IRModule(loops), made_for)
    few = tvm.runtime.tensor(np.full(lanes, 0.5, np.float32))
    result = tvm.runtime.tensor(np.zeros(threads * _ACCUMULATORS * lanes, np.float32))
    many = tvm.runtime.tensor(np.ones(_ELEMENTS // (threads * _ACCUMULATORS * lanes) * len(result.numpy()), np.float32))
    compat.configure_threads(threads, cpu.allowed())
    data = tvm.runtime.tensor(np.ones(_DATA * dot.width, types.data))
    weight = tvm.runtime.tensor(np.ones(_ACCUMULATORS * lanes * dot.width, types.weight))
    sums = tvm.runtime.tensor(np.zeros(len(result.numpy()), np.int32))
    operations = 2 * lanes * _ACCUMULATORS * _STEPS * threads
    size = many.numpy().nbytes
    return Peak(
        flops=operations / _best(lambda: built["flops"](few, result), _RUNS),
        products=operations * dot.width / _best(lambda: built["products"](data, weight, sums), _RUNS),
        bytes=size / _best(lambda: built["read"](many, result), _RUNS // 5),
    )


def _best(run: Any, times: int) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _flops(lanes: int, threads: int) -> Any:
    count = _ACCUMULATORS
    steps = _STEPS

    @T.prim_func
    def flops(x: T.Buffer((lanes,), "float32"), y: T.Buffer((threads * count * lanes,), "float32")):  # type: ignore
        T.func_attr({"global_symbol": "flops", "tirx.noalias": True})
        for t in T.parallel(threads):
            a = T.alloc_buffer((count * lanes,), "float32", scope="local")
            for i in T.unroll(count):
                a[T.Ramp(i * lanes, 1, lanes)] = T.Broadcast(T.float32(1), lanes)
            for _ in T.serial(steps):
                for i in T.unroll(count):
                    a[T.Ramp(i * lanes, 1, lanes)] = (
                        a[T.Ramp(i * lanes, 1, lanes)] * x[T.Ramp(0, 1, lanes)] + x[T.Ramp(0, 1, lanes)]
                    )
            for i in T.unroll(count):
                y[T.Ramp((t * count + i) * lanes, 1, lanes)] = a[T.Ramp(i * lanes, 1, lanes)]

    return flops


def _products(dot: Dot, types: Dtypes, threads: int) -> Any:
    """Return the loop on bytes: each sum has weights of its own and data that changes, so that all is computed."""
    lanes, count = dot.lanes, _ACCUMULATORS
    steps = _STEPS

    @T.prim_func
    def products(  # type: ignore
        x: T.Buffer((_DATA * dot.width,), types.data),  # type: ignore
        w: T.Buffer((count * lanes * dot.width,), types.weight),  # type: ignore
        y: T.Buffer((threads * count * lanes,), "int32"),  # type: ignore
    ):
        T.func_attr({"global_symbol": "products", "tirx.noalias": True})
        for t in T.parallel(threads):
            a = T.alloc_buffer((count * lanes,), "int32", scope="local")
            for i in T.unroll(count):
                a[T.Ramp(i * lanes, 1, lanes)] = T.Broadcast(T.int32(0), lanes)
            for k in T.serial(steps):
                for i in T.unroll(count):
                    a[T.Ramp(i * lanes, 1, lanes)] = dot.add(
                        a, i * lanes, [x, k % _DATA * dot.width], [w, i * lanes * dot.width]
                    )
            for i in T.unroll(count):
                y[T.Ramp((t * count + i) * lanes, 1, lanes)] = a[T.Ramp(i * lanes, 1, lanes)]

    return products


def _read(lanes: int, threads: int) -> Any:
    count = _ACCUMULATORS
    steps = _ELEMENTS // (threads * count * lanes)

    size = threads * steps * count * lanes

    @T.prim_func
    def read(x: T.Buffer((size,), "float32"), y: T.Buffer((threads * count * lanes,), "float32")):  # type: ignore
        T.func_attr({"global_symbol": "read", "tirx.noalias": True})
        for t in T.parallel(threads):
            a = T.alloc_buffer((count * lanes,), "float32", scope="local")
            for i in T.unroll(count):
                a[T.Ramp(i * lanes, 1, lanes)] = T.Broadcast(T.float32(0), lanes)
            for k in T.serial(steps):
                for i in T.unroll(count):
                    a[T.Ramp(i * lanes, 1, lanes)] = (
                        a[T.Ramp(i * lanes, 1, lanes)] + x[T.Ramp(((t * steps + k) * count + i) * lanes, 1, lanes)]
                    )
            for i in T.unroll(count):
                y[T.Ramp((t * count + i) * lanes, 1, lanes)] = a[T.Ramp(i * lanes, 1, lanes)]

    return read
