"""From a scheduled Relax module to the files of an artifact: VM code and kernels in one library, weights beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from graphopt.artifact import Memory, Weight
from graphopt.backend import Progress
from graphopt.target import Target
from graphopt.targets.tvm.embedded import embedded, write_assembly
from graphopt.targets.tvm.gpu_compiler import compile_cuda
from graphopt.targets.tvm.link import link
from graphopt.targets.tvm.loops import PIPELINE
from graphopt.targets.tvm.memory import Meter
from graphopt.targets.tvm.order import order_shape_functions
from graphopt.targets.tvm.weight_checks import trust_weights

_ALIGNMENT = 64  # a cache line, and the widest vector: what compiled code may assume of a tensor's first byte


def tvm_target(target: Target) -> tvm.target.Target:
    """TVM's description of a target. CUDA's `arch` is always given: TVM would otherwise fall back to sm_50."""
    host: dict[str, Any] = {
        "kind": "llvm",
        "mtriple": target.triple,
        "mcpu": target.cpu,
        "mattr": [*(f"+{feature}" for feature in target.features), *target.tuning],
        "num-cores": target.cores,
    }
    if target.gpu is None:
        return tvm.target.Target(host)
    device = {
        "kind": "cuda",
        "arch": target.gpu.arch,
        "max_threads_per_block": target.gpu.max_threads_per_block,
        "max_shared_memory_per_block": target.gpu.shared_memory_bytes,
        "thread_warp_size": target.gpu.warp_size,
    }
    return tvm.target.Target(device, host=tvm.target.Target(host))


def build_library(mod: tvm.IRModule, target: Target, library: Path, progress: Progress) -> Memory:
    """Compile and link a module whose functions are all scheduled; says what memory `main` takes.

    The same module gives the same bytes.
    """
    meter = Meter()
    made_for = tvm_target(target)
    with made_for, tvm.transform.PassContext(opt_level=3):
        kernels = "default" if target.gpu else PIPELINE
        executable = relax.build(mod, made_for, relax_pipeline=_to_virtual_machine(meter), tir_pipeline=kernels)
    progress("linking", 0.85)
    with tempfile.TemporaryDirectory(prefix="graphopt-objects-") as folder:
        link(_objects(executable.mod, target, Path(folder)), library, target.machine)
    return meter.memory


def _to_virtual_machine(meter: Meter) -> tvm.transform.Pass:
    """Relax calls to virtual-machine code: memory planned ahead, nothing left that fuses or schedules."""
    return tvm.transform.Sequential(
        [
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            meter.before(),
            relax.transform.StaticPlanBlockMemory(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            meter.after(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            order_shape_functions,
            trust_weights,
            relax.transform.AttachGlobalSymbol(),
        ]
    )


def _objects(module: tvm.runtime.Module, target: Target, folder: Path) -> list[Path]:
    """Object files of the host code, and an assembly file that holds everything else (bytecode, GPU code) as data."""
    paths = []
    for index, part in enumerate(module._collect_dso_modules()):
        if part.kind == "c":  # empty source text: what stands for the code of a module without kernels
            continue
        paths.append(folder / f"code{index}.o")
        part.write_to_file(str(paths[-1]))
    arch = target.gpu.arch if target.gpu else ""
    data = embedded(module, lambda source: compile_cuda(source, arch))
    return [*paths, write_assembly(data, folder)]


def write_weights(arrays: Sequence[np.ndarray], path: Path) -> tuple[Weight, ...]:
    """Write the arrays one after the other, each at a multiple of 64 bytes; says where each lies."""
    infos = []
    with path.open("wb") as file:
        for array in arrays:
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            infos.append(Weight(array.dtype.name, tuple(array.shape), file.tell()))
            file.write(np.ascontiguousarray(array).tobytes())
    return tuple(infos)
