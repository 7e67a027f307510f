"""Code generation kernel by kernel: what is told of each, and of one that takes long."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import tvm
from tvm import te, tirx

import graphopt
from graphopt.hardware import processor as cpu
from graphopt.hardware.target import Target
from graphopt.rewriting.pipeline import Observer
from graphopt.rewriting.report import Report
from graphopt.targets.tvm.codegen import build, kernels
from tests.helpers import model_of

TEXT = "g (float[N,8] x, float[8,8] w) => (float[N,8] y) { t = MatMul(x, w)  u = Relu(t)  y = Softmax(u) }"


class Keeper(Observer):
    """Keeps the report that a compilation goes on with."""

    report = Report()

    def end(self, model: graphopt.Model, report: Report) -> None:
        self.report = report


@pytest.mark.parametrize("target", ["x86:v2", "arm"])
def test_each_kernel_says_what_it_took_and_for_which_nodes(target: str) -> None:
    keeper = Keeper()
    graphopt.compile(model_of(TEXT), target, observers=[keeper])
    code = keeper.report.code
    assert code is not None
    assert {"optimizing", "lowering", "generating code", "linking"} <= code.stages.keys()
    assert all(seconds >= 0 for seconds in code.stages.values())
    named = {layer: kernel for kernel in code.kernels for layer in kernel.layers}
    assert set(named) == {"t", "u", "y"}
    assert named["t"].schedule.startswith("matmul")
    assert all(kernel.seconds > 0 for kernel in code.kernels)
    assert all(100 < kernel.bytes < 100_000 for kernel in code.kernels)


def module_of(*names: str) -> tvm.IRModule:
    """A function of each name, each with work of its own."""
    x = te.placeholder((64,), name="x")
    func = te.create_prim_func([x, te.compute((64,), lambda i: te.exp(x[i]))])
    return tvm.IRModule({name: func.with_attr("global_symbol", name) for name in names})


def test_a_kernel_that_takes_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_PATIENCE", 0.01)
    told: list[tuple[str, float]] = []
    made_for = build.tvm_target(Target.load("x86:v2"))
    layers = {"one": ("/a", "/b", "/c"), "two": ("/d",)}
    found = kernels.compile_kernels(module_of("two", "one"), made_for, tmp_path, lambda *s: told.append(s), layers)
    assert [code.function for _, code in found] == ["one", "two"]
    assert all(path.stat().st_size > code.bytes > 0 for path, code in found)
    assert {text for text, _ in told} & {"generating code: one (/a +2)", "generating code: two (/d)"}
    assert told[-1] == ("generating code", 0.85)


def test_an_error_in_one_kernel_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tvm.IRModule] = []

    def fail(module: tvm.IRModule, **options: object) -> None:
        built.append(module)
        time.sleep(0.01)
        raise ValueError("no such instruction")

    monkeypatch.setattr(tirx, "build", fail)
    monkeypatch.setattr(cpu, "allowed", lambda: [0])
    made_for = build.tvm_target(Target.load("x86:v2"))
    module = module_of(*(f"f{number}" for number in range(50)))
    with pytest.raises(ValueError, match="no such instruction"):
        kernels.compile_kernels(module, made_for, tmp_path, lambda *step: None, {})
    assert len(built) < 50
