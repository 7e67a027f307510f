"""Compiling for CUDA needs no GPU; the artifact contains GPU code, which is run if there is a GPU."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from graphopt import runtime
from graphopt.errors import ArtifactError
from graphopt.runtime.manifest import LIBRARY
from graphopt.targets.tvm.cuda.nvcc import find_nvcc
from tests.compiled import compiled, expected, inputs

pytestmark = pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not here")


def gpu_is_here() -> bool:
    """Return whether a driver is installed and sees a device."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def test_the_artifact_holds_gpu_code_and_no_source():
    made = compiled("cuda:sm_90")
    assert made.manifest.device == "cuda"
    assert made.manifest.target["gpu"]["arch"] == "sm_90"
    library = (made.folder / LIBRARY).read_bytes()
    assert b"\x50\xed\x55\xba" in library, "no fat binary"
    assert b"\x7fELF" in library[4:], "no code for the GPU itself"
    assert b"matmul_kernel" in library
    assert b"__global__" not in library, "source is left, which a device could not compile"


def test_gpu_code_is_for_the_architecture_that_was_asked_for():
    """An ELF header of GPU code has the architecture in its flags (bits 8 to 15 since CUDA 12.8: 90 and 80)."""
    for name, number in (("cuda:sm_90", 90), ("cuda:sm_80", 80)):
        library = (compiled(name).folder / LIBRARY).read_bytes()
        at = library.index(b"\x7fELF", 4)
        flags = int.from_bytes(library[at + 48 : at + 52], "little")
        assert number in (flags & 0xFF, flags >> 8 & 0xFF)


def test_without_a_gpu_it_says_so():
    if gpu_is_here():
        pytest.skip("a GPU is here")
    with pytest.raises(ArtifactError, match=r"libtvm_runtime_cuda\.so cannot be loaded"):
        runtime.load(compiled("cuda:sm_90").folder)


def test_it_computes_the_same_on_a_gpu():
    if not gpu_is_here():
        pytest.skip("no GPU is here")
    given = inputs(33)
    outputs = runtime.load(compiled("cuda:sm_90").folder).run(given)
    for name, array in expected(given).items():
        np.testing.assert_allclose(outputs[name], array, atol=1e-4)
