"""The C++ program of docs/cpp, built and run with the commands of docs/deploy.md, on the host and emulated for ARM."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphopt.cli.demo import MODEL
from graphopt.driver import compiling as compiler
from graphopt.hardware import processor as cpu
from graphopt.hardware.target import Target
from graphopt.ir.text import parse
from graphopt.proof.oracle import run_reference
from graphopt.targets.tvm.codegen import bundle
from tests.compiled import compiled

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "deploy.md").read_text()
SYSROOT = Path("/usr/aarch64-linux-gnu")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")


def commands(mark: str) -> str:
    found = re.search(rf"<!-- cpp: {mark} -->\n```sh\n(.*?)```", GUIDE, re.S)
    assert found, mark
    return found[1]


def shell(code: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def prepared(folder: Path) -> np.ndarray:
    """A folder as the guide takes it to be: the model, the program, an input."""
    shutil.copy(MODEL, folder / "model.onnx")
    shutil.copytree(ROOT / "docs" / "cpp", folder / "cpp")
    image = np.random.default_rng(0).random((3, 1, 28, 28), np.float32)
    np.save(folder / "image.npy", image)
    return run_reference(folder / "model.onnx", {"image": image})["logits"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the guide's commands for this machine have been run."""
    folder = tmp_path_factory.mktemp("here")
    expected = prepared(folder)
    np.save(folder / "expected.npy", expected)
    compiler.compile(folder / "model.onnx", bundle_runtime=True).save(folder / "model.gopt")
    shell(commands("host"), folder)
    return folder


@needs_compiler
def test_the_program_computes_what_the_model_computes(here):
    np.testing.assert_allclose(np.load(here / "logits.npy"), np.load(here / "expected.npy"), rtol=1e-4, atol=1e-4)


@needs_compiler
def test_the_program_computes_what_python_computes(here):
    """The same code on the same input: the same bits."""
    from graphopt import runtime

    outputs = runtime.load(here / "model.gopt").run({"image": np.load(here / "image.npy")})
    np.testing.assert_array_equal(np.load(here / "logits.npy"), outputs["logits"])


@needs_compiler
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("", "usage: run MODEL.gopt"),
        ("model.gopt --fast", "cannot understand '--fast'"),
        ("model.gopt", "no file given for input 'image'"),
        ("model.gopt image=image.npy x=image.npy", "there is no input 'x'"),
        ("model.gopt image=no.npy", "no.npy: cannot be opened"),
        ("model.gopt image=model.onnx", "model.onnx: is not an .npy file"),
        ("model.gopt image=double.npy", "has dtype '<f8', but the model takes '<f4'"),
        ("model.gopt image=fortran.npy", "is in Fortran order"),
        ("model.gopt image=flat.npy", "input 'image' has rank 2, but the model takes 4"),
        ("model.gopt image=wide.npy", "input 'image' has size 29 on axis 3, but must have 28"),
        ("model.gopt image=short.npy", "short.npy: is shorter than its header says"),
        ("model.gopt --out /nowhere image=image.npy", "/nowhere/logits.npy: cannot be written"),
        ("no.gopt image=image.npy", "no.gopt: is not an artifact: it has no manifest.json"),
        ("other.gopt x=image.npy", "is compiled for aarch64, but this is x86_64"),
        ("future.gopt x=image.npy", "needs the CPU feature avx9000, which this processor lacks"),
    ],
)
def test_the_program_refuses_what_is_wrong(here, arguments, problem):
    if "other.gopt" in arguments and cpu.machine() != "x86_64":
        pytest.skip("this machine is another")
    image = np.load(here / "image.npy")
    np.save(here / "double.npy", image.astype(np.float64))
    np.save(here / "fortran.npy", np.asfortranarray(image))
    np.save(here / "flat.npy", image.reshape(3, -1))
    np.save(here / "wide.npy", np.zeros((3, 1, 28, 29), np.float32))
    (here / "short.npy").write_bytes((here / "image.npy").read_bytes()[:-4])
    if not (here / "other.gopt").exists():
        compiled("arm:cortex-a53").save(here / "other.gopt")
        path = compiled().save(here / "future.gopt") / "manifest.json"
        path.write_text(path.read_text().replace('"features": [', '"features": [ "avx9000",', 1))
    done = subprocess.run(["./run", *arguments.split()], cwd=here, capture_output=True, text=True)
    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1


@needs_compiler
def test_arrays_of_every_kind_survive_the_program(tmp_path, here):
    """An identity of each dtype, without elements too."""
    arrays = {
        "bool": np.array([True, False]),
        "int8": np.int8([-1, 2]),
        "uint8": np.uint8([255, 2]),
        "int32": np.int32([-5, 7]),
        "int64": np.int64([-(2**40), 7]),
        "float16": np.float16([1.5, -2]),
        "double": np.float64([np.pi, -0.0]),
        "float": np.zeros((0, 3), np.float32),
    }
    dims = {name: ",".join(f"{name}{axis}" for axis in range(array.ndim)) for name, array in arrays.items()}
    given = ", ".join(f"{name}[{dims[name]}] in_{name}" for name in arrays)
    taken = ", ".join(f"{name}[{dims[name]}] out_{name}" for name in arrays)
    body = " ".join(f"out_{name} = Identity(in_{name})" for name in arrays)
    model = parse(f'<ir_version: 10, opset_import: ["" : 21]> all ({given}) => ({taken}) {{ {body} }}')
    compiler.compile(model, passes="").save(tmp_path / "all.gopt")
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    files = [f"in_{name}={name}.npy" for name in arrays]
    subprocess.run([here / "run", "all.gopt", *files], cwd=tmp_path, check=True, capture_output=True)
    for name, array in arrays.items():
        read = np.load(tmp_path / f"out_{name}.npy")
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def test_the_program_knows_every_feature_that_a_manifest_may_name():
    text = (ROOT / "docs" / "cpp" / "cpu.h").read_text()
    for machine in cpu.FEATURES.values():
        assert not [feature for feature in machine if f'{{"{feature}", {{' not in text]


def arm_runtime_is_cached() -> bool:
    """Return whether a compilation for ARM can bundle its runtime without the network."""
    arm = Target.load("arm").machine
    libraries = (bundle._FFI_LIBRARY, bundle._RUNTIME_LIBRARY)
    return cpu.machine() == arm or all(bundle.cached(library, arm).is_file() for library in libraries)


@pytest.mark.skipif(EMULATOR is None, reason="qemu-aarch64-static is not here (Debian: qemu-user-static)")
@pytest.mark.skipif(
    not (SYSROOT / "lib" / "libstdc++.so.6").exists(),
    reason="ARM's libraries are not here (Debian: libc6-arm64-cross libstdc++6-arm64-cross)",
)
@pytest.mark.skipif(
    not arm_runtime_is_cached(),
    reason="TVM's runtime for ARM is not in the cache: compile once with --target arm --bundle-runtime",
)
def test_an_arm_board_computes_what_the_model_computes(tmp_path):
    expected = prepared(tmp_path)
    shell(commands("arm"), tmp_path)
    shell(f"{EMULATOR} -L {SYSROOT} ./run model.gopt --threads 2 image=image.npy", tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-4, atol=1e-4)
