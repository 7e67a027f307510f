"""Functions are scheduled for a GPU without one, and without nvcc; if a rule of TVM fails, the next one is used."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import tirx

from graphopt.driver.optimizing import run_passes
from graphopt.hardware.target import Target
from graphopt.targets.tvm.codegen.build import tvm_target
from graphopt.targets.tvm.cpu.pipeline import Cpu
from graphopt.targets.tvm.cpu.schedule import is_scheduled
from graphopt.targets.tvm.cuda.pipeline import Cuda
from graphopt.targets.tvm.device import Device, fuse, fuse_and_schedule
from graphopt.targets.tvm.lowering.lower import lower
from graphopt.targets.tvm.machine import machine_for
from tests.helpers import model_of

MODELS = {
    "product": (
        "g (float[5, 24] x) => (float[5, 8] y) { t = MatMul(x, w)  y = Relu(t) }",
        np.ones((24, 8), np.float32),
    ),
    # TVM's rule for reductions fails an assertion for the ranks that it counts.
    "top-k": ("g (float[24, 70] x) => (float[24, 3] y, int64[24, 3] z) { y, z = TopK(x, w) }", np.array([3])),
    "cumulative sum": ("g (float[24, 70] x) => (float[24, 70] y) { y = CumSum(x, w) }", np.array(1)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", ["cuda:sm_90", "x86:znver3"])
def test_every_function_is_scheduled(name: str, target: str) -> None:
    described = Target.load(target)
    device: Device = Cuda() if described.kind == "cuda" else Cpu(machine_for(described))
    text, weight = MODELS[name]
    model = model_of(f'<ir_version: 9, opset_import: ["" : 21]> {text}', {"w": weight})
    run_passes(model, "infer-shapes")
    lowered = lower(model, device.machine).mod
    functions = [f for _, f in fuse(lowered, tvm_target(described), device).functions_items()]
    assert not any(is_scheduled(func) for func in functions if isinstance(func, tirx.PrimFunc))
    scheduled = fuse_and_schedule(lowered, tvm_target(described), device)
    kernels = [func for _, func in scheduled.functions_items() if isinstance(func, tirx.PrimFunc)]
    assert kernels
    assert all(is_scheduled(func) for func in kernels)
    assert ("threadIdx.x" in scheduled.script()) is (device.kind == "cuda")
