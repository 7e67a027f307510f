"""From a scheduled Relax module to the files of an artifact: a library of VM code and kernels, a file of weights."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from graphopt.driver.backend import Progress
from graphopt.hardware.target import Target
from graphopt.profiling.code import KernelCode
from graphopt.runtime.manifest import Memory, Weight
from graphopt.targets.tvm import compat
from graphopt.targets.tvm.codegen.embedded import embedded, write_assembly
from graphopt.targets.tvm.codegen.kernels import compile_kernels
from graphopt.targets.tvm.codegen.link import link
from graphopt.targets.tvm.cuda.nvcc import compile_cuda
from graphopt.targets.tvm.lowering.operand import Operand
from graphopt.targets.tvm.relax_passes.memory import Meter
from graphopt.targets.tvm.relax_passes.order import order_shape_functions
from graphopt.targets.tvm.relax_passes.weight_checks import trust_weights

_ALIGNMENT = 64  # a cache line, and the widest vector: the alignment of tensors that compiled code may assume


def tvm_target(target: Target) -> tvm.target.Target:
    """Return TVM's description of a target. CUDA's `arch` is always set; TVM would otherwise fall back to sm_50."""
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


def build_library(
    mod: tvm.IRModule,
    target: Target,
    library: Path,
    progress: Progress,
    layers: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[Memory, tuple[KernelCode, ...]]:
    """Compile and link a module whose functions are all scheduled; return the memory of `main`, and the kernels.

    `layers`: the nodes of the user's model that each function computes. The same module gives the same bytes. The
    kernels of a GPU are compiled together and not returned.
    """
    meter, codes = Meter(), tuple[KernelCode, ...]()
    made_for = tvm_target(target)
    with tempfile.TemporaryDirectory(prefix="graphopt-objects-") as name:
        folder = Path(name)
        with made_for, tvm.transform.PassContext(opt_level=3):
            mod = _to_virtual_machine(meter)(mod)
            if target.gpu:
                executable = relax.build(mod, made_for, relax_pipeline=None, tir_pipeline="default")
                objects = _host_objects(executable.mod, folder)
            else:
                executable, kernels = _split(mod, made_for)
                compiled = compile_kernels(kernels, made_for, folder, progress, layers or {})
                objects, codes = [path for path, _ in compiled], tuple(code for _, code in compiled)
        arch = target.gpu.arch if target.gpu else ""
        data = embedded(executable.mod, lambda source: compile_cuda(source, arch))
        progress("linking", 0.85)
        link([*objects, write_assembly(data, folder)], library, target.machine)
    return meter.memory, codes


def _split(mod: tvm.IRModule, made_for: tvm.target.Target) -> tuple[relax.VMExecutable, tvm.IRModule]:
    """Return the virtual machine's code, and the kernels that it calls by name.

    `relax.build` would do both, but generate code for one kernel after the other.
    """
    link_machine, rest = compat.virtual_machine_code(mod, made_for)
    kernels = {name: func for name, func in rest.functions.items() if isinstance(func, tvm.tirx.PrimFunc)}
    return link_machine(), tvm.IRModule(kernels, attrs=rest.attrs)


def _to_virtual_machine(meter: Meter) -> tvm.transform.Pass:
    """Convert Relax calls to virtual-machine code, with memory planning; nothing fuses or schedules any more."""
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


def _host_objects(module: tvm.runtime.Module, folder: Path) -> list[Path]:
    """Return object files of the host code."""
    paths = []
    for index, part in enumerate(compat.native_modules(module)):
        if part.kind == "c":  # empty source text, which represents the code of a module without kernels
            continue
        paths.append(folder / f"code{index}.o")
        part.write_to_file(str(paths[-1]))
    return paths


def write_weights(operands: Iterable[Operand], path: Path) -> tuple[Weight, ...]:
    """Write constants one after the other, each at a multiple of 64 bytes; return their places.

    Each is packed while it is written, and equal contents are written once.
    """
    infos, places = [], dict[bytes, int]()
    with path.open("wb") as file:
        for operand in operands:
            end = file.tell()
            file.write(b"\0" * (-end % _ALIGNMENT))
            start, hasher = file.tell(), hashlib.blake2b(digest_size=20)
            for piece in operand.pieces():
                data = np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data
                hasher.update(data)
                file.write(data)
            place = places.setdefault(hasher.digest(), start)
            if place != start:
                file.seek(end)
                file.truncate()
            infos.append(Weight(operand.dtype, tuple(int(size) for size in operand.shape), place))
    return tuple(infos)
