"""Measurement of kernels in separate processes, with the builder and the runners of TVM's MetaSchedule.

A kernel that crashes its compiler or itself, or hangs, costs one measurement: the worker is restarted. Only the RPC
server of another machine does not survive a kernel that crashes.

On this machine, a kernel runs on one thread (tiles are chosen for one core) and is timed by that thread's CPU time,
which other programs disturb far less than wall time. Its packed operand is another copy at each call, as in a network,
where other layers' weights have replaced it in the caches since the last call. On another machine, TVM's own evaluator
times it, with all but the first operand flushed from the caches.
"""

from __future__ import annotations

import functools
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tvm
from tvm import tirx

from graphopt.driver.tuning import Remote
from graphopt.errors import CompileError
from graphopt.hardware import processor as cpu
from graphopt.hardware.target import Target
from graphopt.targets.tvm import compat
from graphopt.targets.tvm.codegen.build import tvm_target
from graphopt.targets.tvm.codegen.link import link
from graphopt.targets.tvm.tir_passes.pipeline import PIPELINE
from graphopt.targets.tvm.tuning.compare import compare_here, compare_there, random
from graphopt.targets.tvm.tuning.messages import last_line
from graphopt.targets.tvm.tuning.remote import THREADS, remote_runner

_LOG = logging.getLogger(__name__)

BUILD_SECONDS = 60
RUN_SECONDS = 20
REPEATS = 4
REPEAT_MS = 5
COPIES = 64
"""The limit on copies of the packed operand; those of small layers then come from the last cache, as in reality."""
WORKERS = 8
NEEDED = ("cloudpickle", "psutil")
NEEDED_REMOTELY = ("tornado",)


class Bench(Protocol):
    """A place where candidates are built and timed."""

    def build(self, functions: Sequence[tirx.PrimFunc]) -> list[Path | None]:
        """Return a library for each scheduled function; None for one that could not be built."""
        ...

    def time(self, function: tirx.PrimFunc, library: Path) -> float | None:
        """Return the seconds of the fastest of a few calls; None if it crashed or hung."""
        ...

    def compare(self, function: tirx.PrimFunc, reference: Path, library: Path) -> str:
        """Return what differs between the results of two libraries of a function; empty if nothing does."""
        ...


class TvmBench:
    """A bench that builds on this machine, and runs here or at the `remote`. To be used in a `with` statement.

    Raises CompileError if a package is missing or the remote's device disconnects, InputError if the remote cannot be
    reached.
    """

    def __init__(self, target: Target, remote: Remote | None = None, run_seconds: float = RUN_SECONDS) -> None:
        check_packages(NEEDED + (NEEDED_REMOTELY if remote else ()))
        from tvm.s_tir.meta_schedule.builder import LocalBuilder

        self._folder = Path(tempfile.mkdtemp(prefix="graphopt-tune-"))
        try:
            self._target = tvm_target(target)
            self._builder = LocalBuilder(
                max_workers=max(1, min(len(cpu.allowed()), WORKERS)),
                timeout_sec=BUILD_SECONDS,
                f_build=build_scheduled,
                f_export=functools.partial(export, str(self._folder), target.machine),
            )
            last_cache = max(target.l2_kib, target.l3_kib) << 10
            self._runner = remote_runner(remote, run_seconds) if remote else _local_runner(last_cache, run_seconds)
            self._patience = 2 * run_seconds
            self._remote = remote
            self._failures = 0
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> TvmBench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers and remove what they built."""
        runner = getattr(self, "_runner", None)
        if runner is not None:
            runner.pool.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    def build(self, functions: Sequence[tirx.PrimFunc]) -> list[Path | None]:
        """See `Bench.build`."""
        from tvm.s_tir.meta_schedule.builder import BuilderInput

        inputs = [BuilderInput(tvm.IRModule({"main": function}), self._target) for function in functions]
        results = self._builder.build(inputs) if inputs else []
        for result in results:
            if result.error_msg:
                _LOG.info("a candidate cannot be built: %s", last_line(result.error_msg))
        return [None if result.error_msg else Path(str(result.artifact_path)) for result in results]

    def time(self, function: tirx.PrimFunc, library: Path) -> float | None:
        """See `Bench.time`."""
        from tvm.s_tir.meta_schedule.arg_info import ArgInfo
        from tvm.s_tir.meta_schedule.runner import RunnerInput

        future = self._runner.run([RunnerInput(str(library), "cpu", ArgInfo.from_prim_func(function))])[0]
        self._wait(future)
        result = future.result()
        if result.error_msg or not result.run_secs:
            _LOG.info("a candidate cannot be run: %s", last_line(str(result.error_msg)))
            self._failures += 1
            self._check_device()
            return None
        self._failures = 0
        return min(float(seconds) for seconds in result.run_secs)

    def compare(self, function: tirx.PrimFunc, reference: Path, library: Path) -> str:
        """See `Bench.compare`."""
        from tvm.s_tir.meta_schedule.arg_info import ArgInfo

        arguments = [info.as_json() for info in ArgInfo.from_prim_func(function)]
        runner = self._runner
        if self._remote is None:
            future = runner.pool.submit(compare_here, arguments, str(reference), str(library))
        else:
            future = runner.pool.submit(compare_there, runner.rpc_config, arguments, str(reference), str(library))
        self._wait(future)
        try:
            problem: str = future.result()
        except Exception as error:  # whatever happened in the worker, or to it
            return last_line(str(error)) if str(error) else type(error).__name__
        return problem

    def _check_device(self) -> None:
        """Raise CompileError if the device is gone: TVM's RPC server ends with a kernel that crashes it."""
        if self._remote is not None and self._failures > 1:
            raise CompileError(
                "the device does not respond any more",
                where=f"{self._remote.host}:{self._remote.port}, key {self._remote.key}",
                remedy="restart its server, which a kernel may have crashed; earlier records are kept",
            )

    def _wait(self, future: Any) -> None:
        """Wait for a measurement, and abort it if the other machine stops responding: TVM has no limit for that."""
        deadline = time.monotonic() + self._patience
        while not future.done():
            if time.monotonic() > deadline:
                compat.kill_workers(self._runner.pool)
                deadline += self._patience
            time.sleep(0.005)


def check_packages(names: Sequence[str]) -> None:
    """Raise CompileError if one of the packages that TVM's workers need is missing."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise CompileError(f"tuning needs {' and '.join(missing)}", remedy=f"pip install {' '.join(missing)}")


# --- what runs in the builder's workers


def build_scheduled(mod: tvm.IRModule, target: tvm.target.Target, _params: Any) -> tvm.runtime.Module:
    """Build a module whose functions are scheduled, as for artifacts."""
    import graphopt.targets.tvm.tir_passes.pipeline  # noqa: F401  (registers PIPELINE in this process)

    with target:
        return tirx.build(mod, target, pipeline=PIPELINE)


def export(folder: str, machine: str, module: tvm.runtime.Module) -> str:
    """Link a module into a library for `machine` in a separate folder; return the path."""
    library = Path(tempfile.mkdtemp(dir=folder)) / "kernel.so"

    def link_objects(path: str, objects: Sequence[str], options: Any = None) -> None:
        link([Path(name) for name in objects], Path(path), machine)

    module.export_library(str(library), fcompile=link_objects)
    return str(library)


# --- here


def _local_runner(last_cache: int, seconds: float) -> Any:
    from tvm.s_tir.meta_schedule.runner import EvaluatorConfig, LocalRunner

    return LocalRunner(
        timeout_sec=seconds,
        evaluator_config=EvaluatorConfig(number=1, repeat=REPEATS, min_repeat_ms=REPEAT_MS),
        f_alloc_argument=functools.partial(allocate, 2 * last_cache),
        f_run_evaluator=evaluate,
        initializer=use_one_thread,
    )


def use_one_thread() -> None:
    """Set the number of threads, first thing in a runner's worker: TVM reads it when its threads start."""
    import os

    os.environ["TVM_NUM_THREADS"] = str(THREADS)


def allocate(size: int, device: Any, args_info: Sequence[Any], _repeat: int) -> list[list[Any]]:
    """Allocate arguments that differ in the second operand, if there is one: as many as take `size` bytes together.

    That operand is the packed one, followed only by the result; functions without a family may have any number.
    """
    rng = np.random.default_rng(0)

    def tensor(info: Sequence[Any]) -> Any:
        _, dtype, shape = info
        return tvm.runtime.tensor(random(rng, str(dtype), [int(extent) for extent in shape]), device)

    first, *rest = [tensor(info) for info in args_info]
    if len(rest) < 2:
        return [[first, *rest]]
    packed, *rest = rest
    nbytes = packed.numpy().nbytes
    copies = max(1, min(COPIES, size // max(1, nbytes)))
    others = [tvm.runtime.empty(packed.shape, packed.dtype, device).copyfrom(packed) for _ in range(copies - 1)]
    return [[first, part, *rest] for part in [packed, *others]]


def evaluate(module: Any, _device: Any, config: Any, arguments: Sequence[Sequence[Any]]) -> list[float]:
    """Return the CPU time of a call in seconds, averaged over a few milliseconds, `config.repeat` times."""
    kernel, following = module["main"], 0

    def run(times: int) -> float:
        nonlocal following
        start = time.thread_time()
        for _ in range(times):
            kernel(*arguments[following])
            following = (following + 1) % len(arguments)
        return time.thread_time() - start

    run(1)
    once = max(run(1), 1e-7)
    times = max(config.number, round(config.min_repeat_ms / 1000 / once))
    return [run(times) / times for _ in range(config.repeat)]
