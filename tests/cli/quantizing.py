"""A small classifier to quantize, and the command that does it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphopt import io
from graphopt.ir import Model
from tests.helpers import model_of

if TYPE_CHECKING:
    from tests.cli.conftest import Result, Run

NET = """<ir_version: 10, opset_import: ["" : 21]> net (float[N,3,8,8] x) => (float[N,4] y) {
    [first] a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) [second] c = Conv<strides=[2,2]>(r, w2) s = Relu(c)
    m = GlobalAveragePool(s) f = Flatten(m) [last] y = Gemm<transB=1>(f, w3) }"""


def network() -> Model:
    """A small classifier whose second layer suffers from 8 bits: few large channels hide the others."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "w3": (4, 8)}
    weights = {name: rng.normal(size=shape, scale=0.4).astype(np.float32) for name, shape in shapes.items()}
    weights["w1"][0] *= 100
    weights["w2"][:, 0] /= 100
    return model_of(NET, weights)


def quantized(run: Run, net: Path, *words: object) -> Result:
    return run("quantize", net, "-o", "int8.onnx", "-c", "samples.npz", *words)


def integers(path: str = "int8.onnx") -> int:
    """The number of products with integer weights."""
    return sum(
        node.op in ("Conv", "Gemm") and node.inputs[1].producer is not None for node in io.load(path).graph.nodes
    )  # type: ignore[union-attr]
