"""Operators that read dequantized values compute with the integers behind these."""

from __future__ import annotations

import numpy as np

import graphopt
from graphopt.proof.oracle import run_reference
from tests.helpers import model_of

CASES = {
    "uint8": ("uint8", (2, 3, 7, 9), "s, z0", (2, 3), 1),
    "int8": ("int8", (3, 17), "s, z1", (1,), 0),
    "int16": ("int16", (2, 5, 6), "s, z2", (0, 2), 1),
    "too many": ("int16", (1, 40000), "s, z2", (1,), 1),
    "without zero point": ("uint8", (2, 4, 5), "s", (1,), 1),
    "several scales": ("uint8", (2, 3, 7), "c, d", (2,), 1),
    "all axes": ("uint8", (4, 5), "s, z0", (0, 1), 1),
}
"""Type and shape of the integers, scale and zero point, axes of the mean, and whether it keeps them."""


def test_means() -> None:
    random = np.random.default_rng(0)
    weights = {
        "s": np.float32(0.07),
        "z0": np.uint8(131),
        "z1": np.int8(-5),
        "z2": np.int16(-30000),
        "c": np.array([0.1, 0.5, 2], np.float32),
        "d": np.array([0, 3, 255], np.uint8),
    }
    feeds, inputs, outputs, body = {}, [], [], []
    for number, (dtype, shape, scale, axes, keep) in enumerate(CASES.values()):
        limits = np.iinfo(dtype)
        feeds[f"x{number}"] = random.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
        weights[f"a{number}"] = np.array(axes, np.int64)
        inputs.append(f"{dtype}[{','.join(map(str, shape))}] x{number}")
        result = np.empty(shape).sum(axes, keepdims=bool(keep)).shape
        outputs.append(f"float[{','.join(map(str, result))}] y{number}")
        body.append(f"f{number} = DequantizeLinear(x{number}, {scale})")
        body.append(f"y{number} = ReduceMean<keepdims = {keep}>(f{number}, a{number})")
    text = f"g ({', '.join(inputs)}) => ({', '.join(outputs)}) {{ {' '.join(body)} }}"
    model = model_of(text, weights)
    found, expected = graphopt.compile(model, passes="").run(feeds), run_reference(model, feeds)
    for number, name in enumerate(CASES):
        got, want = found[f"y{number}"], expected[f"y{number}"]
        assert got.shape == want.shape, name
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-5, err_msg=name)
