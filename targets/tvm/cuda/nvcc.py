"""Compilation of CUDA source to GPU code with nvcc, in IEEE arithmetic.

TVM's own callback passes --use_fast_math, which approximates division, square roots and denormal numbers and is too
inaccurate for comparisons with the model.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from graphopt.errors import CompileError

_REMEDY = "install the CUDA toolkit and put nvcc on PATH, or set CUDA_HOME to it; no GPU is needed to compile"


def find_nvcc() -> str | None:
    """Return the path of nvcc: from CUDA_HOME, from PATH, or from the toolkit's default location."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    for home in [*homes, "/usr/local/cuda"]:
        path = Path(home) / "bin" / "nvcc"
        if path.is_file() and (home in homes or not shutil.which("nvcc")):
            return str(path)
    return shutil.which("nvcc")


def compile_cuda(source: str, arch: str) -> bytes:
    """Return GPU code for `arch` ("sm_90"), and its PTX so that later GPUs can run it. Raises CompileError."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise CompileError("compiling for CUDA needs nvcc, which was not found", remedy=_REMEDY)
    number = arch.removeprefix("sm_")
    with tempfile.TemporaryDirectory(prefix="graphopt-cuda-") as folder:
        (Path(folder) / "kernels.cu").write_text(source, encoding="utf-8")
        command = [nvcc, "--fatbin", "-O3", "-gencode", f"arch=compute_{number},code=[sm_{number},compute_{number}]"]
        command += ["-o", "kernels.fatbin", "kernels.cu"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        if result.returncode:
            raise CompileError(f"nvcc failed for {arch}:\n{result.stderr.strip()[-2000:]}", remedy=_REMEDY)
        return (Path(folder) / "kernels.fatbin").read_bytes()
