"""Object files of kernels: the code of each kernel is generated separately, on all cores, and timed."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import tvm
from tvm import tirx

from graphopt.driver.backend import Progress
from graphopt.hardware import processor as cpu
from graphopt.profiling.code import KernelCode
from graphopt.targets.tvm.lowering.provenance import SCHEDULE
from graphopt.targets.tvm.tir_passes.pipeline import PIPELINE

STAGE = "generating code"
_START, _SHARE = 0.5, 0.35  # of the progress of a build
_PATIENCE = 2.0  # seconds after which an unfinished kernel is named
_EXECUTABLE = 0x4  # SHF_EXECINSTR of ELF


def compile_kernels(
    kernels: tvm.IRModule,
    made_for: tvm.target.Target,
    folder: Path,
    progress: Progress,
    layers: Mapping[str, tuple[str, ...]],
) -> list[tuple[Path, KernelCode]]:
    """Return the object file of each kernel and its cost, ordered by name.

    All cores are used: LLVM does the work without holding Python's lock. `layers` has the nodes of the user's model
    that each function computes. `progress` receives the name of a kernel that takes long, so that the error of a time
    limit can name it.
    """
    functions = sorted(kernels.functions.items(), key=lambda item: item[0].name_hint)
    codes = [KernelCode(name.name_hint, layers.get(name.name_hint, ()), _schedule(f), 0.0, 0) for name, f in functions]
    started: dict[int, float] = {}

    def compile_one(number: int) -> tuple[Path, KernelCode]:
        started[number] = time.perf_counter()
        name, func = functions[number]
        path = folder / f"code{number}.o"
        begin = time.thread_time()
        with made_for, tvm.transform.PassContext(opt_level=3):
            module = tvm.IRModule({name: func}, attrs=kernels.attrs)
            tirx.build(module, target=made_for, pipeline=PIPELINE).write_to_file(str(path))
        code = codes[number]
        seconds = time.thread_time() - begin
        return path, KernelCode(code.function, code.layers, code.schedule, seconds, code_bytes(path.read_bytes()))

    with ThreadPoolExecutor(len(cpu.allowed())) as pool:
        futures = [pool.submit(compile_one, number) for number in range(len(functions))]
        try:
            _follow(futures, codes, started, progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _follow(
    futures: Sequence[Future[tuple[Path, KernelCode]]],
    codes: Sequence[KernelCode],
    started: Mapping[int, float],
    progress: Progress,
) -> None:
    """Report progress until all kernels are done. Raises the exception of the first that fails."""
    numbers = {future: number for number, future in enumerate(futures)}
    while numbers:
        done, _ = wait(numbers, timeout=_PATIENCE / 4, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
            del numbers[future]
        now, part = time.perf_counter(), 1 - len(numbers) / len(futures)
        since = {started[number]: number for number in numbers.values() if number in started}
        slow = [codes[since[moment]].label for moment in sorted(since) if now - moment > _PATIENCE]
        progress(": ".join([STAGE, *slow[:1]]), _START + _SHARE * part)


def _schedule(func: tirx.PrimFunc) -> str:
    return str(func.attrs.get(SCHEDULE, "")) if func.attrs else ""


def code_bytes(data: bytes) -> int:
    """Return the size of the executable sections of an object file, which is 64-bit little-endian ELF."""
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, number = struct.unpack_from("<HH", data, 0x3A)
    headers = (struct.unpack_from("<IIQQQQ", data, table + size * section) for section in range(number))
    return sum(length for _, _, flags, _, _, length in headers if flags & _EXECUTABLE)
