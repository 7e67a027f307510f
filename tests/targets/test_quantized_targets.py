"""Quantized networks and kernels compiled for several processors: the same integers, whatever the instructions."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt import io
from graphopt.cli.demo import MODEL
from graphopt.driver.integers import products
from graphopt.hardware.target import Target
from graphopt.proof.oracle import run_reference
from graphopt.targets.tvm.kernels.common.dot import INTEGER, dot_for
from graphopt.targets.tvm.machine import machine_for
from tests.helpers import model_of
from tests.targets.integer_kernels import integer_kernels
from tests.test_deploy import EMULATOR, SYSROOT, arm_runtime_is_cached
from tools import check_arm

TARGETS = ("x86", "x86:v4")
BOARDS = {"arm:cortex-a72": "mull", "arm:cortex-a76": "sdot", "arm:neoverse-v1": "usdot"}
"""ARM processors, and how they multiply bytes."""


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
        if target.runs_here():
            artifact = graphopt.compile(tmp_path / "int8.onnx", target=target, inputs={"image": (30, 1, 28, 28)})
            results[name] = artifact.run({"image": images})["logits"]
    if len(results) < 2:
        pytest.skip("this processor runs the code of only one of the targets")
    first = results.pop("host")
    for name, logits in results.items():
        np.testing.assert_allclose(logits, first, rtol=0, atol=1e-5 * np.abs(first).max(), err_msg=name)
    expected = run_reference(tmp_path / "int8.onnx", {"image": images})["logits"]
    assert (first.argmax(1) == expected.argmax(1)).all()


def check_integers(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], where: str) -> None:
    """Sums are those of ONNX Runtime; what is rounded from them may be a step away where a sum is in the middle."""
    for name, want in expected.items():
        have = found[name].astype(np.int64)
        if want.dtype == np.int32:
            np.testing.assert_array_equal(have, want, err_msg=f"{where}: {name}")
        else:
            assert np.abs(have - want).max() <= 1, f"{where}: {name}"


def check_equal(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], where: str) -> None:
    """All is equal but what is rounded from convolutions, which are those of floats where these are faster."""
    for name, array in found.items():
        if not (name[0] == "Y" and name[1:].isdigit()):
            np.testing.assert_array_equal(array, wanted[name], err_msg=f"{where}: {name}")


def test_kernels_of_odd_shapes_give_the_same_integers() -> None:
    model, feeds = integer_kernels()
    expected = run_reference(model, feeds)
    results: dict[str, dict[str, np.ndarray]] = {}
    for name in ("host", *TARGETS):
        if Target.load(name).runs_here():
            results[name] = graphopt.compile(model, target=name, tune="off").run(feeds)
            check_integers(results[name], expected, name)
    first = results.pop("host")
    for name, outputs in results.items():
        check_equal(outputs, first, name)


@pytest.mark.skipif(EMULATOR is None, reason="qemu-aarch64-static is not here (Debian: qemu-user-static)")
@pytest.mark.skipif(not (SYSROOT / "lib" / "libstdc++.so.6").exists(), reason="ARM's libraries are not here")
@pytest.mark.skipif(not arm_runtime_is_cached(), reason="TVM's runtime for ARM is not in the cache")
@pytest.mark.parametrize(("target", "way"), BOARDS.items())
def test_boards_give_the_same_integers(tmp_path: Path, target: str, way: str) -> None:
    """Those that multiply unsigned by signed bytes, signed bytes alone, and 16-bit integers."""
    model, feeds = integer_kernels(("padded", "narrow groups", "first", "depthwise"))
    assert dot_for(INTEGER, 4, machine_for(Target.load(target))).name == way
    given = []
    for name, array in feeds.items():
        np.save(tmp_path / f"{name}.npy", array)
        given.append(f"{name}={name}.npy")
    graphopt.compile(model, target=target, tune="off", bundle_runtime=True).save(tmp_path / "model.gopt")
    check_arm.build_program(tmp_path / "model.gopt", tmp_path / "run")
    command = [str(EMULATOR), "-cpu", "max", "-L", str(SYSROOT), "./run", "model.gopt", *given]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    here = graphopt.compile(model, target="host", tune="off").run(feeds)
    found = {name: np.load(tmp_path / f"{name}.npy") for name in here}
    check_integers(found, run_reference(model, feeds), target)
    check_equal(found, here, target)


def test_uncommon_products_are_right_and_accounted_for() -> None:
    """The products of QAttention, of a Gemm with transposed data and of a transposed convolution run on integers."""
    rng, weights = np.random.default_rng(0), {}
    for name, shape in (("w", (16, 48)), ("g", (9, 5)), ("c", (3, 4, 3, 3))):
        weights[name] = rng.integers(-127, 128, shape).astype(np.int8)
    weights |= {"b": rng.normal(size=48).astype(np.float32), "s": np.float32(0.05), "t": np.float32(0.01)}
    weights |= {"z": np.uint8(113), "v": np.int8(0), "m": np.array([7, 3], np.int32)}
    model = model_of(
        """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (float[2,7,16] X, float[9,6] G, float[1,3,6,5] C) => (float[2,7,16] attention, float[6,5] gemm, float D) {
            x = QuantizeLinear(X, s, z)
            attention = com.microsoft.QAttention <num_heads = 4> (x, w, b, s, t, m, z, v)
            p = QuantizeLinear(G, s, z) q = DequantizeLinear(p, s, z) k = DequantizeLinear(g, t, v)
            gemm = Gemm <transA = 1> (q, k)
            d = QuantizeLinear(C, s, z) e = DequantizeLinear(d, s, z) l = DequantizeLinear(c, t, v)
            D = ConvTranspose <strides = [2,2], pads = [1,1,1,1]> (e, l)
        }""".replace("float D", "float[1,4,11,9] D"),
        weights,
    )
    target = Target.load("host")
    reasons = [(product.op, product.reason) for product in products(model, target)]
    assert {("Gemm", ""), ("Conv", ""), ("MatMul", "")} <= set(reasons)
    assert reasons.count(("MatMul", "its data is not quantized")) == 2, "attention itself is one of floats"
    feeds = {"X": (2, 7, 16), "G": (9, 6), "C": (1, 3, 6, 5)}
    inputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in feeds.items()}
    found = graphopt.compile(model, target=target, tune="off").run(inputs)
    for name, wanted in run_reference(model, inputs).items():
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max(), err_msg=name)
