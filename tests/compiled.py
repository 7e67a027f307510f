"""A small model, compiled once per test run for each target, for tests of the compiler's output."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from graphopt.driver import compiling as compiler
from graphopt.ir import Model
from graphopt.ir.text import parse
from graphopt.runtime.artifact import Artifact

WIDTH = 32
WEIGHT = np.linspace(-1, 1, 16 * WIDTH, dtype=np.float32).reshape(16, WIDTH)
"""2 KiB: more than what is embedded in the code, so that it lies in weights.bin."""


def model() -> Model:
    """`h = x @ WEIGHT` and `y = relu(h + bias)` for any number of rows N."""
    values = ",".join(map(str, WEIGHT.ravel()))
    return parse(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        dense (float[N,16] x, float[N,{WIDTH}] bias) => (float[N,{WIDTH}] y, float[N,{WIDTH}] h)
        <float[16,{WIDTH}] w = {{{values}}}>
        {{ h = MatMul(x, w)  s = Add(h, bias)  y = Relu(s) }}"""
    )


def inputs(rows: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of the model."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((rows, 16)).astype(np.float32),
        "bias": rng.standard_normal((rows, WIDTH)).astype(np.float32),
    }


def expected(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what the model computes for these inputs."""
    h = given["x"] @ WEIGHT
    return {"y": np.maximum(h + given["bias"], 0), "h": h}


@functools.cache
def compiled(target: str = "host", bundle_runtime: bool = False) -> Artifact:
    """The compiled model; tests that change the folder must save a copy first."""
    return compiler.compile(model(), target, bundle_runtime=bundle_runtime)


def copy(folder: Path, target: str = "host") -> Path:
    """A copy of the compiled model in `folder`, to be damaged."""
    return compiled(target).save(folder / "model.gopt")
