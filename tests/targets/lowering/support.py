"""Lowering a model given as text, running it here, and comparing it with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort
import tvm
from tvm import relax

from graphopt import io
from graphopt.driver.optimizing import run_passes
from graphopt.ir import Model
from graphopt.targets.tvm.codegen.build import _to_virtual_machine
from graphopt.targets.tvm.cpu.pipeline import Cpu
from graphopt.targets.tvm.device import fuse_and_schedule
from graphopt.targets.tvm.lowering.execute import Runner
from graphopt.targets.tvm.lowering.lower import Lowered, lower
from graphopt.targets.tvm.relax_passes.memory import Meter
from graphopt.targets.tvm.tir_passes.pipeline import PIPELINE
from tests.helpers import model_of
from tests.targets.schedule.support import HOST, MACHINE

Arrays = Mapping[str, np.ndarray]


def lowered(text: str, weights: Arrays | None = None) -> tuple[Model, Lowered]:
    """The model of a text with `weights` as initializers, and what it is lowered to."""
    model = model_of(text, dict(weights or {}))
    return model, lower(model)


def expected(model: Model, inputs: Arrays) -> list[np.ndarray]:
    """Return what ONNX Runtime computes without rewriting anything."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(io.to_proto(model).SerializeToString(), options)
    return session.run(None, dict(inputs))


def check(text: str, *inputs: Arrays, weights: Arrays | None = None, tolerance: float = 1e-5) -> Lowered:
    """Compile once, and compare with ONNX Runtime for each set of inputs: dtypes, shapes and numbers."""
    model, result = lowered(text, weights)
    run = Runner(result)
    assert inputs, "nothing to compare"
    for given in inputs:
        outputs = run([given[info.name] for info in result.inputs])
        for info, have, want in zip(result.outputs, outputs, expected(model, given), strict=True):
            assert (have.dtype, have.shape) == (want.dtype, want.shape), info.name
            if want.dtype.kind in "biu":
                np.testing.assert_array_equal(have, want, err_msg=info.name)
            else:
                top = np.abs(want[np.isfinite(want)]).max(initial=1e-6)
                np.testing.assert_allclose(have, want, rtol=0, atol=tolerance * top, err_msg=info.name)
    return result


def check_for_machine(text: str, *inputs: Arrays, weights: Arrays | None = None, tolerance: float = 1e-5) -> None:
    """As `check`, but with the machine's own kernels, and number for number where the tolerance is 0."""
    model = model_of(text, dict(weights or {}))
    for given, outputs in zip(inputs, run_for_machine(text, *inputs, weights=weights), strict=True):
        for have, want in zip(outputs, expected(model, given), strict=True):
            assert (have.dtype, have.shape) == (want.dtype, want.shape)
            if want.dtype.kind in "biu" or not tolerance:
                np.testing.assert_array_equal(have, want)
            else:
                top = np.abs(want[np.isfinite(want)]).max(initial=1e-6)
                np.testing.assert_allclose(have, want, rtol=0, atol=tolerance * top)


def run_for_machine(text: str, *inputs: Arrays, weights: Arrays | None = None) -> list[list[np.ndarray]]:
    """The outputs for each set of inputs, computed by the machine's own kernels."""
    return run_model_for_machine(model_of(text, dict(weights or {})), *inputs)


def run_model_for_machine(model: Model, *inputs: Arrays) -> list[list[np.ndarray]]:
    """The outputs of a model, whose types are inferred in it, for each set of inputs."""
    run_passes(model, "infer-shapes")
    made = lower(model, MACHINE)
    with HOST:
        module = fuse_and_schedule(made.mod, HOST, Cpu(MACHINE))
        built = relax.build(module, HOST, relax_pipeline=_to_virtual_machine(Meter()), tir_pipeline=PIPELINE)
    machine = relax.VirtualMachine(built, tvm.cpu())
    parameters = [tvm.runtime.tensor(np.asarray(operand.array, order="C")) for _, operand in made.params]
    assert inputs, "nothing to run"
    results = []
    for given in inputs:
        tensors = [tvm.runtime.tensor(np.asarray(given[info.name], order="C")) for info in made.inputs]
        result = machine["main"](*tensors, *parameters)
        outputs = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        results.append([output.numpy() for output in outputs])
    return results


def noise(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Reproducible data of a shape: normal floats, or small integers."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":
        low = 0 if np.dtype(dtype).kind == "u" else -20
        return rng.integers(low, 20, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)
