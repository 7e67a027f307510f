"""Loading and running a compiled model. Imports numpy and tvm_ffi, and nothing of the compiler.

session = graphopt.runtime.load("model.gopt", threads=2) outputs = session.run({"x": array})
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from graphopt.errors import ArtifactError, InputError
from graphopt.hardware import processor as cpu
from graphopt.runtime import tensors
from graphopt.runtime import threads as runtime_threads
from graphopt.runtime.checks import check_files
from graphopt.runtime.inputs import Inputs, dtype_of, slices
from graphopt.runtime.manifest import LIBRARY, WEIGHTS, Manifest, TensorInfo, read_manifest
from graphopt.runtime.members import member

_DEVICES = {"cpu": 1, "cuda": 2}  # DLPack's device types
_POOLED = 2  # an allocator of the virtual machine that keeps freed memory for the next run
_MAIN = "main with weights"  # the saved closure: the virtual machine itself appends the weights to the inputs
_RUNTIME = "libtvm_runtime.so"
_loaded: dict[str, Any] = {}


def load(path: str | os.PathLike[str], threads: int | None = None, *, check: str = "code") -> Session:
    """Check the artifact at `path` and prepare it for running.

    Arguments:
        path: the artifact's folder.
        threads: the number of threads of its kernels. None takes the environment variable TVM_NUM_THREADS, or else the
            number of physical cores. It is limited to the CPUs that this process may use; `Session.threads` is the
            result.
        check: "code" compares the sizes of all files and the SHA-256 of the libraries with the manifest; "full"
        compares
            the SHA-256 of every file, which means reading the weights from end to end.

    Raises ArtifactError if the folder is incomplete, modified, of another format, or for another machine, and
    InputError for a thread count below one or another value of `check`.
    """
    count = runtime_threads.choose(threads)
    folder = Path(path)
    manifest = read_manifest(folder)
    _check_machine(folder, manifest)
    check_files(folder, manifest, check)
    return Session(folder, manifest, count)


class Session:
    """A loaded model. `run` may be called from several threads; the calls are serialized."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.manifest = manifest
        self.threads = threads
        self._where = str(folder)
        self._lock = threading.Lock()
        _load_runtime(folder, manifest)
        try:
            library, machine = _start(folder, manifest)
        except (RuntimeError, ValueError, AttributeError, KeyError, OSError) as error:
            raise ArtifactError(
                f"its code cannot be loaded: {_first_line(error)}", where=self._where, remedy=_load_remedy(manifest)
            ) from error
        self._machine = (library, machine)  # code that runs must stay mapped
        self._mapped: list[np.ndarray] = []
        weights, defaults = self._map_weights(folder)
        machine["save_function"]("main", _MAIN, True, *weights)
        self._main = machine[_MAIN]
        # The pool keeps blocks of every size that was ever requested: with open sizes it would grow without bound.
        self._inputs = Inputs(manifest.inputs, tvm_ffi.get_global_func("vm.builtin.memory_manager.clear"), defaults)
        self._results = [(info.name, dtype_of(info.dtype)) for info in manifest.outputs]
        on_cpu = manifest.device == "cpu"
        as_they_are = on_cpu and all(tensors.carried(dtype_of(info.dtype)) for info in manifest.inputs)
        self._to_tensor = None if as_they_are else tensors.to_cpu if on_cpu else tensors.to_gpu
        self._to_array = tensors.from_cpu if on_cpu else tensors.from_gpu

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The inputs that `run` takes: name, dtype, shape."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The outputs that `run` returns: name, dtype, shape."""
        return self.manifest.outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model: from arrays by input name to arrays by output name, which belong to the caller.

        Inputs that have a default in the manifest may be omitted. No dtype is converted. On a CPU nothing is copied:
        contiguous arrays are read in place, and results are the memory that the kernels wrote. Raises InputError for a
        name, dtype or shape that does not fit, and says what would.
        """
        arrays = self._inputs.check(inputs)
        with self._lock:
            runtime_threads.use(self.threads)
            try:
                results = self._main(*(map(self._to_tensor, arrays) if self._to_tensor else arrays))
            except (RuntimeError, ValueError, TypeError) as error:
                raise InputError(
                    f"the compiled model rejected these inputs: {_first_line(error)}", where=self._where
                ) from error
        if len(self._results) == 1:
            results = (results,)
        # A result may be an input, a weight or another result: such results are copied, others handed over.
        taken = self._mapped + arrays
        outputs = {}
        for (name, dtype), result in zip(self._results, results, strict=True):
            array = tensors.own(self._to_array(result, dtype), taken)
            taken.append(array)
            outputs[name] = array
        return outputs

    def instrument(self, callback: Callable[..., object] | None) -> None:
        """Have `callback(function, name, is_before, result, *arguments)` called before and after each kernel.

        The virtual machine's own steps count as kernels; their names begin with `vm.`. None removes the callback.
        """
        with self._lock:
            self._machine[1]["set_instrument"](callback)

    def _map_weights(self, folder: Path) -> tuple[list[Any], dict[str, np.ndarray]]:
        """Return the weights as tensors over the mapped file, and the defaults of inputs as arrays over it.

        Pages are read on first use and shared between processes.
        """
        weights, defaults = self.manifest.weights, self.manifest.defaults
        if not (weights or defaults):
            return [], {}
        # Copy-on-write, because DLPack cannot express read-only memory; nothing writes to it.
        data = np.memmap(folder / WEIGHTS, dtype=np.uint8, mode="c")
        self._mapped.append(data.view(np.ndarray))
        arrays = slices(data, [*weights, *defaults.values()], self._where)
        return [tensors.to_cpu(array) for array in arrays[: len(weights)]], dict(zip(defaults, arrays[len(weights) :]))


def _start(folder: Path, manifest: Manifest) -> tuple[Any, Any]:
    """Return the library, and a virtual machine that runs it."""
    library = tvm_ffi.load_module(str(folder.resolve() / LIBRARY))
    machine = library["vm_load_executable"]()
    device = _DEVICES[manifest.device]
    host = () if manifest.device == "cpu" else (_DEVICES["cpu"], 0, _POOLED)
    machine["vm_initialization"](device, 0, _POOLED, *host)
    return library, machine


def _check_machine(folder: Path, manifest: Manifest) -> None:
    here = cpu.current()
    name = manifest.target.get("name", "?")
    if manifest.device not in _DEVICES:
        raise ArtifactError(f"is for an unknown device {manifest.device!r}", where=str(folder))
    if manifest.machine != here.machine:
        raise ArtifactError(
            f"is compiled for {manifest.machine} (target {name}), but this machine is {here.machine}",
            where=str(folder),
            remedy="compile it with --target host on this machine, or copy it to a machine that it was compiled for",
        )
    if lacking := cpu.missing(manifest.features, here):
        raise ArtifactError(
            f"needs CPU features that this machine ({here.model_name}) lacks: {', '.join(lacking)}",
            where=str(folder),
            remedy="compile it with --target host on this machine, or for a more general target such as x86 or arm",
        )


def _load_runtime(folder: Path, manifest: Manifest) -> None:
    """Load TVM's runtime library, once per process: the bundled one, or the installed one found without its package."""
    names = [_RUNTIME, *(["libtvm_runtime_cuda.so"] if manifest.device == "cuda" else [])]
    for name in names:
        if name in _loaded:
            continue
        path = _mapped(name) or (member(folder, name) if name in manifest.runtime else _installed(name))
        if path is None:
            raise ArtifactError(
                f"{name} is missing",
                where=str(folder),
                remedy="install apache-tvm in the version that manifest.json names, or compile with --bundle-runtime",
            )
        try:
            _loaded[name] = ctypes.CDLL(str(path.resolve()), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise ArtifactError(f"{name} cannot be loaded: {error}", where=str(folder)) from error


def _mapped(name: str) -> Path | None:
    """Return the copy of a library that this process has loaded already: with a second one, TVM aborts the process."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            path = Path(line[line.find("/") :])
            if path.name == name:
                return path
    return None


def _installed(name: str) -> Path | None:
    spec = importlib.util.find_spec("tvm")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / "lib" / name
        if path.is_file():
            return path
    return None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _load_remedy(manifest: Manifest) -> str:
    if manifest.device == "cuda":
        return "a CUDA driver and GPU are needed on this machine"
    wanted = manifest.versions.get("apache-tvm", "?")
    return f"it was compiled with apache-tvm {wanted}: install that version, or compile it again"
