"""The requirements of compiling for a target on this machine, determined without importing TVM."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from graphopt.driver.backend import Requirement
from graphopt.hardware.target import Target
from graphopt.targets.tvm.cuda.nvcc import find_nvcc

_PACKAGES = (
    ("apache-tvm", "compiles"),
    ("apache-tvm-ffi", "calls the compiled code"),
    ("ziglang", "links for every machine"),
)


def requirements(target: Target) -> list[Requirement]:
    """Return the packages and tools that `TvmBackend.build` uses for `target`."""
    found = [_package(name, purpose) for name, purpose in _PACKAGES]
    if target.kind == "cuda":
        nvcc = find_nvcc()
        name = "CUDA toolkit (nvcc)" if nvcc is None else f"CUDA toolkit ({nvcc})"
        found.append(Requirement(name, nvcc is not None, "install it and put nvcc on PATH, or set CUDA_HOME"))
    return found


def _package(name: str, purpose: str) -> Requirement:
    remedy = f"pip install {name} ({purpose})"
    try:
        return Requirement(f"{name} {importlib.metadata.version(name)}", True, remedy)
    except importlib.metadata.PackageNotFoundError:
        return Requirement(name, False, remedy)
