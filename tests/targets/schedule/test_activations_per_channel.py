"""Activations with one parameter per channel, spread over rows."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt.hardware.target import load
from graphopt.ir.text import parse
from graphopt.proof.oracle import Reference


@pytest.mark.parametrize("target", ["host", "x86", "x86:v2"])
def test_squeeze_and_excite_into_a_pyramid(target: str) -> None:
    """The necks of text detectors: gated maps enlarged so far that a vector of the result reads one element."""
    model = parse(
        '<ir_version: 10, opset_import: ["": 22]> g (float[N,3,H,W] a, float[N,3,1,1] s, float[N,3,K,L] b) '
        "=> (float[N,6,P,Q] y) <float[4] k = {1., 1., 8., 8.}> { u = HardSigmoid(s)  v = Mul(a, u)  p = Add(a, v)  "
        'r = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(p, , k)  '
        "c = Mul(b, u)  y = Concat<axis=1>(r, c) }"
    )
    artifact = graphopt.compile(model, target)
    if not load(target).runs_here():
        pytest.skip("compiled, and not run: this processor lacks what the code needs")
    rng = np.random.default_rng(0)
    with Reference(model) as reference:
        for height, width in ((1, 1), (2, 5), (1, 3)):
            shapes = {"a": (2, 3, height, width), "s": (2, 3, 1, 1), "b": (2, 3, 8 * height, 8 * width)}
            inputs = {name: 4 * rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
            expected = reference.run(inputs)["y"]
            np.testing.assert_allclose(artifact.run(inputs)["y"], expected, rtol=1e-5, atol=1e-5)
