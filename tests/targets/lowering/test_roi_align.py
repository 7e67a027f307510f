"""RoiAlign against ONNX Runtime: regions inside, across and outside of the image, empty and upside down."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt.proof.oracle import Reference
from tests.helpers import model_of

REGIONS = np.array(
    [
        *([0, 0, 8, 7], [-3, -2, 4, 5.5], [2.3, 1.1, 2.9, 1.4]),
        *([5, 5, 20, 30], [4, 4, 2, 2], [7.5, 6, 8.9, 7.9], [50, 50, 60, 60]),
    ],
    np.float32,
)


def model(dtype: str, opset: int, attributes: str) -> str:
    return (
        f'<ir_version: 8, opset_import: ["": {opset}]> '
        f"g ({dtype}[N,3,8,9] X, {dtype}[R,4] r, int64[R] b) => ({dtype}[R,3,2,3] Y) "
        f"{{ Y = RoiAlign<output_height=2, output_width=3{attributes}>(X, r, b) }}"
    )


@pytest.mark.parametrize(
    ("dtype", "opset", "attributes"),
    [
        ("float", 16, ", sampling_ratio=2"),
        ("float", 10, ", sampling_ratio=3, spatial_scale=0.5"),
        ("double", 16, ', coordinate_transformation_mode="output_half_pixel"'),
        ("float", 16, ', mode="max", sampling_ratio=2'),
        ("float", 10, ', mode="max", spatial_scale=0.5'),
        ("float", 16, ', mode="max"'),
    ],
)
def test_regions(dtype: str, opset: int, attributes: str) -> None:
    network = model_of(model(dtype, opset, attributes))
    kind = np.dtype("float32" if dtype == "float" else "float64")
    image = np.random.default_rng(1).normal(size=(2, 3, 8, 9)).astype(kind)
    feeds = {"X": image, "r": REGIONS.astype(kind), "b": np.arange(len(REGIONS)) % 2}
    with Reference(network) as reference:
        want = reference.run(feeds)["Y"]
    got = graphopt.compile(network).run(feeds)["Y"]
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)


def test_regions_of_half_floats_are_computed_as_floats() -> None:
    feeds = {"X": np.random.default_rng(1).normal(size=(2, 3, 8, 9)).astype(np.float16)}
    feeds |= {"r": REGIONS.astype(np.float16), "b": np.arange(len(REGIONS)) % 2}
    wide = {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in feeds.items()}
    with Reference(model_of(model("float", 16, ", sampling_ratio=2"))) as reference:
        want = reference.run(wide)["Y"]
    got = graphopt.compile(model_of(model("float16", 16, ", sampling_ratio=2"))).run(feeds)["Y"]
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)
