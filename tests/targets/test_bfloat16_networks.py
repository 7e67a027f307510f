"""Networks whose products are of bfloat16, from a float model or in that type from the start."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import graphopt
from graphopt.driver import backend
from graphopt.hardware.target import Target
from graphopt.ir import DType, Model
from graphopt.proof.oracle import run_reference
from graphopt.rewriting.pipeline import PassManager, Pipeline
from graphopt.targets.tvm.converters import half
from graphopt.targets.tvm.cpu import schedule
from tests.helpers import model_of
from tests.passes.quantization.measuring import OPSET, noise, random
from tests.targets.lowering.support import run_model_for_machine
from tests.test_deploy import EMULATOR, SYSROOT, arm_runtime_is_cached
from tools import check_arm

BODY = """{
    a = Conv<pads=[1,1,1,1]>(X, w1, b1)  r = Relu(a)  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    c = Conv<pads=[1,1,1,1]>(p, w2, b2)  s = Add(c, p)  t = Relu(s)
    d = Conv<strides=[2,2]>(t, w4, b4)  e = HardSwish(d)  m = GlobalAveragePool(e)  f = Flatten(m)
    g = MatMul(f, w6)  Y = Gemm<transB=1>(g, w3, b3) }"""
SHAPES = {"w1": (17, 3, 3, 3), "b1": (17,), "w2": (17, 17, 3, 3), "b2": (17,), "w4": (33, 17, 1, 1), "b4": (33,)}
SHAPES |= {"w6": (33, 41), "w3": (5, 41), "b3": (5,)}
DATA = random(7, X=(1, 3, 8, 10))
EXACT = 2e-6
"""Of sums in another order. A value close to the middle of two bfloat16 could become either: this data has none."""


def floats() -> Model:
    return model_of(f"{OPSET} g (float[1,3,8,10] X) => (float[1,5] Y) {BODY}", random(0, **SHAPES))


def native() -> Model:
    """The same network, as exported from a framework in which all is bfloat16."""
    weights = {name: array.astype(ml_dtypes.bfloat16) for name, array in random(0, **SHAPES).items()}
    return model_of(f"{OPSET} g (bfloat16[1,3,8,10] X) => (bfloat16[1,5] Y) {BODY}", weights)


def layout(model: Model, target: Target) -> Model:
    changed = model.copy()
    PassManager(Pipeline.parse("infer-shapes," + backend.load().pipeline(target)), target=target).run(changed)
    return changed


def with_bfloat16() -> Target:
    """The host, and what it would be with instructions for bfloat16."""
    host = Target.load("host")
    feature = "avx512bf16" if host.machine == "x86_64" else "bf16"
    return dataclasses.replace(host, features=tuple({*host.features, feature}))


def kernels_in_bfloat16(model: Model, monkeypatch: pytest.MonkeyPatch, feed: dict[str, np.ndarray]) -> tuple:
    """The result of a model on this machine by the kernels of bfloat16, and how many of these ran."""
    ways: list[str] = []
    rule = schedule.schedule_function
    monkeypatch.setattr(half, "multiplies_bfloat16", lambda ctx: True)

    def note(func: object, *rest: object) -> object:
        made = rule(func, *rest)
        ways.append(str(made.attrs.get("graphopt.schedule", "")) + str(made.script().count("bfloat16") > 0))
        return made

    monkeypatch.setattr(schedule, "schedule_function", note)
    ((result,),) = run_model_for_machine(model, feed)
    return result, ways


def test_a_float_network_is_converted_and_computed_by_kernels_of_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime computes the converted file as the kernels do: the data of all products but the first is rounded."""
    model = floats()
    converted, report = graphopt.optimize(model, passes="bfloat16")
    assert report.counts["convert-float/values in bfloat16"] == 4
    assert 1e-4 < noise(model, converted, [DATA]) < 1e-2
    expected = run_reference(converted, DATA)["Y"]
    blocked = layout(converted, with_bfloat16())
    found, ways = kernels_in_bfloat16(blocked, monkeypatch, DATA)
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT * np.abs(expected).max())
    assert sum("bf16-fma" in way or "dpbf16ps" in way or "bfdot" in way for way in ways) == 2, ways
    without = layout(converted, Target.load("x86"))
    assert noise(converted, without, [DATA]) < EXACT


def test_a_network_in_bfloat16_keeps_what_its_products_read() -> None:
    """Other values are float32, within kernels; all are where a target has no instructions for bfloat16."""
    model = native()
    blocked = layout(model, with_bfloat16())
    products = [node for node in blocked.graph.nodes if node.op_type in ("BlockedConv", "MatMul", "Gemm")]
    casts = [node.inputs[0].producer for node in products if node.inputs[0] is not None]
    assert [cast.inputs[0].dtype for cast in casts if cast and cast.inputs[0]] == [DType.BFLOAT16] * 4
    plain = layout(model, Target.load("x86"))
    names = [node.op for node in plain.graph.nodes]
    assert names.count("Cast") <= 4, "of the input, of the result, and of matrices"
    feed = {"X": DATA["X"].astype(ml_dtypes.bfloat16)}
    wanted = run_reference(plain, feed)["Y"].astype(np.float32)
    rounded = run_reference(blocked, feed)["Y"].astype(np.float32)
    assert np.abs(rounded - wanted).max() < 1e-2 * np.abs(wanted).max()


def test_each_kernel_that_reads_a_value_widens_it() -> None:
    """One Cast for two readers would be a copy of the value in float32."""
    text = f"""{OPSET} g (float[4,64] X) => (float[4,64] Y, float[4,64] Z) {{
        h = Cast<to=16>(X)  x = Cast<to=1>(h)  Y = MatMul(x, v)  Z = Mul(x, x) }}"""
    model = model_of(text, random(0, v=(64, 64)))
    for name, casts in (("x86:znver4", 3), ("arm:neoverse-v1", 3), ("x86:v4", 2), ("arm:cortex-a76", 2)):
        changed = layout(model, Target.load(name))
        assert [node.op for node in changed.graph.nodes].count("Cast") == casts, name


@pytest.mark.skipif(EMULATOR is None, reason="qemu-aarch64-static is not here (Debian: qemu-user-static)")
@pytest.mark.skipif(not (SYSROOT / "lib" / "libstdc++.so.6").exists(), reason="ARM's libraries are not here")
@pytest.mark.skipif(not arm_runtime_is_cached(), reason="TVM's runtime for ARM is not in the cache")
def test_a_board_with_instructions_for_bfloat16(tmp_path: Path) -> None:
    """Layout changes between the rounding and the product move the rounded values."""
    text = f"""{OPSET} g (float[1,19,5,7] X) => (float[1,20,5,33] Y) {{
        a = Conv(X, w, b)  Y = MatMul(a, v) }}"""
    model = model_of(text, random(0, w=(20, 19, 1, 1), b=(20,), v=(7, 33)))
    data = random(1, X=(1, 19, 5, 7))
    converted, _ = graphopt.optimize(model, passes="bfloat16")
    artifact = graphopt.compile(converted, target="arm:neoverse-v1", tune="off", bundle_runtime=True)
    artifact.save(tmp_path / "model.gopt")
    kernels = json.loads((tmp_path / "model.gopt" / "kernels.json").read_text())["kernels"]
    assert sum("bfdot" in kernel["schedule"] for kernel in kernels) == 1, kernels
    check_arm.build_program(tmp_path / "model.gopt", tmp_path / "run")
    np.save(tmp_path / "X.npy", data["X"])
    command = [str(EMULATOR), "-cpu", "max", "-L", str(SYSROOT), "./run", "model.gopt", "X=X.npy"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    expected = run_reference(converted, data)["Y"]
    np.testing.assert_allclose(np.load(tmp_path / "Y.npy"), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
