"""Lowering a model given as text, running it here, and comparing it with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from graphopt import io
from graphopt.ir import Model
from graphopt.targets.tvm.execute import Runner
from graphopt.targets.tvm.lower import Lowered, lower
from tests.helpers import model_of

Arrays = Mapping[str, np.ndarray]


def lowered(text: str, weights: Arrays | None = None) -> tuple[Model, Lowered]:
    """The model of a text with `weights` as initializers, and what it is lowered to."""
    model = model_of(text, dict(weights or {}))
    return model, lower(model)


def expected(model: Model, inputs: Arrays) -> list[np.ndarray]:
    """What ONNX Runtime computes without rewriting anything."""
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


def noise(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Reproducible data of a shape: normal floats, or small integers."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":
        low = 0 if np.dtype(dtype).kind == "u" else -20
        return rng.integers(low, 20, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)
