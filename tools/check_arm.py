"""Compile models for ARM, run them with the C++ program of docs/cpp in an emulator, and compare with ONNX Runtime.

    python tools/check_arm.py [MODEL ...] [--target arm:cortex-a76] [--threads N]

MODEL is a name of the catalogue or an ONNX file. Needs qemu-aarch64-static and ARM's C and C++ libraries (Debian:
qemu-user-static libc6-arm64-cross libstdc++6-arm64-cross). A model with dynamic dimensions is compiled once and run at
all its sizes. Exit status: 0 all agree, 1 one does not, 2 something is not to be had.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tvm_ffi.libinfo

import graphopt
from graphopt import io
from graphopt.data import inputs
from graphopt.proof.oracle import Reference
from graphopt.proof.tolerance import Comparison, compare
from graphopt.runtime.artifact import Artifact
from tools.catalogue import Entry, entry
from tools.fetch_models import FetchError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = ("fashion", "squeezenet", "efficientnet-lite0", "magika")
SYSROOT = Path("/usr/aarch64-linux-gnu")


def build_program(libraries: Path, program: Path) -> None:
    """Build the C++ program for AArch64, with the runtime libraries in a folder; it loads them from `model.gopt`."""
    command = [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-gnu.2.28", "-std=c++17", "-O2"]
    command += [str(ROOT / "docs" / "cpp" / "run.cc"), "-o", str(program)]
    command += ["-I", tvm_ffi.libinfo.find_include_path(), "-I", tvm_ffi.libinfo.find_dlpack_include_path()]
    command += [f"-L{libraries}", "-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi"]
    subprocess.run([*command, "-Wl,-rpath,$ORIGIN/model.gopt"], check=True)


def run(emulator: str, folder: Path, artifact: Artifact, sample: inputs.Sample, threads: int) -> Comparison:
    """Run the program in `folder` once, and compare with what the oracle computed."""
    given = []
    for index, (name, array) in enumerate(sample.inputs.items()):
        np.save(folder / f"input{index}.npy", array)
        given.append(f"{name}=input{index}.npy")
    command = [emulator, "-L", str(SYSROOT), "./run", "model.gopt", "--threads", str(threads), *given]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    files = {info.name: folder / f"{info.name.replace('/', '_')}.npy" for info in artifact.manifest.outputs}
    return compare(sample.outputs, {name: np.load(path) for name, path in files.items()})


def check(model: Entry, target: str, emulator: str, threads: int) -> bool:
    """Check one model at all its sizes, and print the errors; return whether it agrees."""
    start = time.perf_counter()
    artifact = graphopt.compile(model.path, target, bundle_runtime=True)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifact.save(folder / "model.gopt")
        build_program(folder / "model.gopt", folder / "run")
        original = io.load(model.path)
        with Reference(model.path, optimize=True) as reference:
            found = []
            for seed, shapes in enumerate(model.sizes):
                sample = inputs.generate(original, seed=seed, shapes=shapes, reference=reference)
                found.append(run(emulator, folder, artifact, sample, threads))
    errors = ", ".join(f"{comparison.error:.1e}" for comparison in found)
    agrees = all(comparison.ok for comparison in found)
    print(f"{model.name}: compiled in {seconds:.1f} s, {'agrees' if agrees else 'DIFFERS'}: {errors}", flush=True)
    return agrees


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=DEFAULT)
    parser.add_argument("--target", default="arm")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if emulator is None or not SYSROOT.is_dir():
        print(f"qemu-aarch64-static or {SYSROOT} is missing", file=sys.stderr)
        return 2
    try:
        entries = [entry(name) for name in options.models]
        agree = [check(model, options.target, emulator, options.threads) for model in entries]
    except (FetchError, FileNotFoundError, graphopt.GraphOptError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if all(agree) else 1


if __name__ == "__main__":
    sys.exit(main())
