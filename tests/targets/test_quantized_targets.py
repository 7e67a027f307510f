"""One quantized network compiled for several processors: the same integers, whatever the instructions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt import io
from graphopt.cli.demo import MODEL
from graphopt.hardware.target import Target
from graphopt.proof.oracle import run_reference

TARGETS = ("x86", "x86:v4")


def test_processors_with_and_without_dot_products_agree(tmp_path: Path) -> None:
    """The sums are exact everywhere, so that only the rounding of the last float operations could differ."""
    with np.load(Path(graphopt.__file__).parent / "demo" / "test_images.npz") as file:
        images = file["images"][:30].astype(np.float32)[:, None] / np.float32(255)
    np.savez(tmp_path / "samples.npz", image=images)
    model, _ = graphopt.optimize(MODEL, passes="quantize", samples=tmp_path / "samples.npz")
    io.save(model, tmp_path / "int8.onnx")
    results = {}
    for name in ("host", *TARGETS):
        target = Target.load(name)
        if target.runs_here:
            artifact = graphopt.compile(tmp_path / "int8.onnx", target=target, inputs={"image": (30, 1, 28, 28)})
            results[name] = artifact.run({"image": images})["logits"]
    if len(results) < 2:
        pytest.skip("this processor runs the code of only one of the targets")
    first = results.pop("host")
    for name, logits in results.items():
        np.testing.assert_allclose(logits, first, rtol=0, atol=1e-5 * np.abs(first).max(), err_msg=name)
    expected = run_reference(tmp_path / "int8.onnx", {"image": images})["logits"]
    assert (first.argmax(1) == expected.argmax(1)).all()
