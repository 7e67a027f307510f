"""Load a compiled model and run it. Imports numpy and tvm_ffi, and nothing of the compiler.

session = graphopt.runtime.load("model.gopt", threads=2)
outputs = session.run({"x": array})
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from graphopt import artifact, cpu, runtime_inputs
from graphopt.errors import ArtifactError, InputError

_DEVICES = {"cpu": 1, "cuda": 2}  # DLPack's device types
_POOLED = 2  # the virtual machine's allocator that keeps freed memory for the next run
_SHARE_ALL_CPUS = -3  # the thread pool's mode in which no thread is pinned to one CPU
_RUNTIME = "libtvm_runtime.so"
_loaded: dict[str, Any] = {}
_pool = threading.local()


def load(path: str | os.PathLike[str], threads: int | None = None) -> Session:
    """Check the artifact at `path` and make it ready to run.

    `threads`: how many threads its kernels use. None takes the environment's TVM_NUM_THREADS, and without it one for
    each physical core. It is never more than the CPUs that this process may use; `Session.threads` tells.

    Raises ArtifactError when the folder is incomplete, altered, of another format, or for another machine, and
    InputError for a thread count below one.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads must be a whole number of at least 1, not {threads!r}")
    folder = Path(path)
    manifest = artifact.read_manifest(folder)
    _check_machine(folder, manifest)
    artifact.check_files(folder, manifest)
    return Session(folder, manifest, _threads(threads))


class Session:
    """A loaded model. `run` may be called from several threads; the calls wait for each other."""

    def __init__(self, folder: Path, manifest: artifact.Manifest, threads: int) -> None:
        self.manifest = manifest
        self.threads = threads
        self._where = str(folder)
        self._lock = threading.Lock()
        _load_runtime(folder, manifest)
        try:
            library = tvm_ffi.load_module(str(folder.resolve() / artifact.LIBRARY))
            machine = library["vm_load_executable"]()
            device = _DEVICES[manifest.device]
            host = () if device == 1 else (_DEVICES["cpu"], 0, _POOLED)
            machine["vm_initialization"](device, 0, _POOLED, *host)
            self._main = machine["main"]
        except (RuntimeError, ValueError, AttributeError, KeyError, OSError) as error:
            raise ArtifactError(
                f"its code cannot be loaded: {_first_line(error)}", where=self._where, remedy=_load_remedy(manifest)
            ) from error
        self._machine = (library, machine)  # code that runs must stay mapped
        self._device = device
        self._weights = self._map_weights(folder)

    @property
    def inputs(self) -> tuple[artifact.TensorInfo, ...]:
        """The inputs that `run` takes: name, dtype, shape."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[artifact.TensorInfo, ...]:
        """The outputs that `run` returns: name, dtype, shape."""
        return self.manifest.outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Input name -> array gives output name -> array; the arrays returned are the caller's own.

        Raises InputError for a name, dtype or shape that does not fit, with what would. No dtype is converted.
        """
        arrays = runtime_inputs.check(self.manifest.inputs, inputs)
        with self._lock:
            _use_threads(self.threads)
            try:
                tensors = [self._tensor(a) for a in arrays]
                results = self._main(*tensors, *self._weights)
            except (RuntimeError, ValueError, TypeError) as error:
                raise InputError(
                    f"the compiled model refused these inputs: {_first_line(error)}", where=self._where
                ) from error
            if not isinstance(results, tvm_ffi.Array):
                results = [results]
            # A result may be an input, a weight or another result; those are copied, the others handed over.
            taken = [*arrays, *self._mapped]
            pairs = zip(self.outputs, results, strict=True)
            return {info.name: self._array(tensor, info, taken) for info, tensor in pairs}

    def _tensor(self, array: np.ndarray) -> Any:
        """An array as the virtual machine takes it; memory is shared on a CPU and copied to a GPU."""
        carrier = runtime_inputs.carrier(array.dtype)
        tensor = tvm_ffi.from_dlpack(array.view(carrier))
        if carrier != array.dtype:
            view = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")
            tensor = view(tensor, tvm_ffi.Shape(array.shape), tvm_ffi.dtype(array.dtype.name), 0)
        if self._device == _DEVICES["cpu"]:
            return tensor
        allocate = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        name = tvm_ffi.dtype(array.dtype.name)
        there = allocate(tvm_ffi.Shape(array.shape), name, tvm_ffi.device("cuda", 0), None)
        tvm_ffi.get_global_func("runtime.TVMTensorCopyFromTo")(tensor, there)
        return there

    def _array(self, tensor: Any, info: artifact.TensorInfo, taken: list[np.ndarray]) -> np.ndarray:
        """A result as the caller's own array: its memory goes with it, and no other array shares it."""
        dtype = runtime_inputs.dtype_of(info.dtype)
        if self._device != _DEVICES["cpu"]:
            return _copied(tensor, dtype)
        carrier = runtime_inputs.carrier(dtype)
        if carrier != dtype:
            view = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")
            tensor = view(tensor, tvm_ffi.Shape(tensor.shape), tvm_ffi.dtype(carrier.name), 0)
        result = np.from_dlpack(tensor).view(dtype)
        if any(np.may_share_memory(result, other) for other in taken):
            result = result.copy()
        taken.append(result)
        return result

    def _map_weights(self, folder: Path) -> list[Any]:
        """The weights as tensors over the mapped file; pages are read when first used and shared between processes."""
        self._mapped: list[np.ndarray] = []
        if not self.manifest.weights:
            return []
        # Copy-on-write: DLPack cannot say that memory is read-only, and nothing writes to it.
        data = np.memmap(folder / artifact.WEIGHTS, dtype=np.uint8, mode="c")
        self._mapped.append(data)
        return [self._tensor(array) for array in runtime_inputs.slices(data, self.manifest.weights, self._where)]


def _copied(tensor: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """A tensor on a GPU as an array."""
    result = np.empty(tuple(tensor.shape), dtype=dtype)
    if result.nbytes:
        copy = tvm_ffi.get_global_func("runtime.TVMTensorCopyToBytes")
        copy(tensor, ctypes.c_void_p(result.ctypes.data), result.nbytes)
    return result


def _check_machine(folder: Path, manifest: artifact.Manifest) -> None:
    here = cpu.current()
    name = manifest.target.get("name", "?")
    if manifest.device not in _DEVICES:
        raise ArtifactError(f"is for an unknown device {manifest.device!r}", where=str(folder))
    if manifest.machine != here.machine:
        raise ArtifactError(
            f"is compiled for {manifest.machine} (target {name}), and this machine is {here.machine}",
            where=str(folder),
            remedy="compile it with --target host here, or copy it to the machine it is for",
        )
    if lacking := cpu.missing(manifest.features, here):
        raise ArtifactError(
            f"needs CPU features that this machine ({here.model_name}) lacks: {', '.join(lacking)}",
            where=str(folder),
            remedy="compile it with --target host here, or with a more general target such as x86 or arm",
        )


def _load_runtime(folder: Path, manifest: artifact.Manifest) -> None:
    """Load TVM's runtime library once a process: the bundled one, or the installed one found without its package."""
    names = [_RUNTIME, *(["libtvm_runtime_cuda.so"] if manifest.device == "cuda" else [])]
    for name in names:
        if name in _loaded:
            continue
        path = artifact.member(folder, name) if name in manifest.runtime else _installed(name)
        if path is None:
            raise ArtifactError(
                f"{name} is not here",
                where=str(folder),
                remedy="install apache-tvm in the version that manifest.json names, or compile with --bundle-runtime",
            )
        try:
            _loaded[name] = ctypes.CDLL(str(path.resolve()), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise ArtifactError(f"{name} cannot be loaded: {error}", where=str(folder)) from error


def _installed(name: str) -> Path | None:
    spec = importlib.util.find_spec("tvm")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / "lib" / name
        if path.is_file():
            return path
    return None


def _threads(asked: int | None) -> int:
    """How many threads to use: never more than the CPUs that this process may run on."""
    if asked is None:
        text = os.environ.get("TVM_NUM_THREADS", "")
        asked = int(text) if text.isdigit() and int(text) > 0 else cpu.current().cores
    return min(asked, len(cpu.allowed()))


def _use_threads(count: int) -> None:
    """Set the kernel pool of the calling thread to `count` threads; TVM keeps one pool for each calling thread.

    Every thread may run on every CPU that this process may use. TVM's default would pin the caller to the first.
    """
    if getattr(_pool, "threads", None) != count:
        cpus = [str(index) for index in cpu.allowed()]
        tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CPUS, count, cpus)
        _pool.threads = count


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _load_remedy(manifest: artifact.Manifest) -> str:
    if manifest.device == "cuda":
        return "a CUDA driver and GPU are needed on this machine"
    wanted = manifest.versions.get("apache-tvm", "?")
    return f"it was compiled with apache-tvm {wanted}: install that version, or compile it again"
