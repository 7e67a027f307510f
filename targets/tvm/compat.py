"""All private or undocumented names of TVM that are used, as of the pinned version.

When TVM is updated, this file must be checked. A test ensures that no other file uses such a name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import relax
from tvm.relax import vm_build
from tvm.s_tir import meta_schedule
from tvm.s_tir.meta_schedule import _ffi_api as meta_schedule_api

_SHARE_ALL_CPUS = -3
"""The thread pool's mode that pins no thread to a single CPU, as in `graphopt.runtime`."""


def virtual_machine_code(
    mod: tvm.IRModule, made_for: tvm.target.Target
) -> tuple[Callable[[], relax.VMExecutable], tvm.IRModule]:
    """Return code for the virtual machine from a lowered Relax module, linked on demand, and the rest of the module.

    `relax.build` would do both, and generate code for the kernels with it, one after the other.
    """
    builder = relax.ExecBuilder()
    rest = vm_build._vmcodegen(builder, mod)
    return (lambda: vm_build._vmlink(builder, made_for)), rest


def native_modules(module: tvm.runtime.Module) -> Sequence[tvm.runtime.Module]:
    """Return the parts of a built module that are native code."""
    return module._collect_dso_modules()


def packed_imports(module: tvm.runtime.Module) -> str:
    """Return the data of a module and of all its imports, as C source of an array of bytes."""
    return str(tvm.get_global_func("runtime.ModulePackImportsToC")(module, False, ""))


def begin_block(builder: relax.BlockBuilder) -> None:
    """Start a new block for the bindings emitted from here on."""
    builder._begin_binding_block()


def end_block(builder: relax.BlockBuilder) -> relax.BindingBlock:
    """Return the block that the last `begin_block` started."""
    return builder._end_block()


def configure_threads(threads: int, processors: Sequence[int]) -> None:
    """Run compiled code on `threads` threads, on any of the processors."""
    names = [str(number) for number in processors]
    tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CPUS, threads, names)


def kill_workers(pool: Any) -> None:
    """Kill the processes of a runner's pool at once; the pool itself would wait for a worker that hangs."""
    for worker in list(pool._worker_map.values()):
        if worker._proc is not None:
            worker._proc.kill()


class TuneContext(meta_schedule.TuneContext):
    """TVM's own, without an import that defines the tensor instructions of every GPU and takes a minute."""

    def __init__(self, *arguments: Any) -> None:
        self.__init_handle_by_constructor__(meta_schedule_api.TuneContext, *arguments)
        meta_schedule_api.TuneContextInitialize(self)
