"""Each command does its job on a small model, for people and for machines (`tune` in its own file)."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt import io
from graphopt.cli.app import app
from graphopt.hardware.target import Target
from tests.cli.conftest import Run, mlp_weights
from tests.helpers import model_of, ops

COMMANDS = [
    "compile",
    "tune",
    "optimize",
    "quantize",
    "run",
    "bench",
    "verify",
    "inspect",
    "stats",
    "diff",
    "bisect",
    "passes",
    "targets",
    "demo",
]


def test_help_names_every_command_and_shows_examples(run: Run) -> None:
    result = run("--help")
    assert result.status == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.out
        helped = run(command, "--help")
        assert helped.status == 0
        assert f"graphopt {command}" in helped.out
        assert "Example" in helped.out


def test_every_command_is_tested_here() -> None:
    assert [command.name for command in app.registered_commands] == COMMANDS


def test_no_command_prints_the_help_and_fails(run: Run) -> None:
    assert run().status == 2


def test_version(run: Run) -> None:
    """A bug report should contain the versions and the processor."""
    lines = run("--version").out.splitlines()
    assert lines[0] == f"graphopt {graphopt.__version__}"
    assert lines[1:3] == [f"{package} {metadata.version(package)}" for package in ("apache-tvm", "apache-tvm-ffi")]
    assert lines[3] == Target.load("host").summary
    assert len(lines) == 4


def test_the_version_tells_what_is_wrong_with_the_machine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_HOST_FEATURES", "x86-64-v9")
    result = run("--version")
    assert result.status == 0
    assert result.out.splitlines()[0] == f"graphopt {graphopt.__version__}"
    assert "has no 'x86-64-v9'" in result.out.splitlines()[3]


def test_optimize_writes_the_optimized_model(run: Run, mlp: Path) -> None:
    result = run("optimize", mlp, "-o", "out.onnx", "--verify")
    assert result.status == 0, result.err
    assert ops(io.load("out.onnx")) == {"Gemm": 1, "Relu": 1}
    assert "fuse-matmul-add" in result.out
    assert "2 -> 2" not in result.out
    assert "wrote out.onnx: 3 nodes -> 2" in result.out


def test_optimize_reports_as_json(run: Run, mlp: Path) -> None:
    found = run("optimize", mlp, "-o", "out.onnx", "--passes", "O0,fuse-matmul-add", "--verify", "--json").json
    assert found["nodes"] == {"before": 3, "after": 2}
    assert found["report"]["fidelity"] == "float"
    assert found["report"]["error"] < 1e-5
    fused = next(step for step in found["report"]["steps"] if step["pass"] == "fuse-matmul-add")
    assert fused["counts"] == {"rewritten": 1}


def test_optimization_levels(run: Run, mlp: Path) -> None:
    fidelity = {}
    for level in range(4):
        found = run("optimize", mlp, "-o", "out.onnx", f"-O{level}", "--json").json
        fidelity[level] = found["report"]["fidelity"], found["nodes"]["after"]
    assert fidelity[0] == ("exact", 3)
    assert fidelity[1] == ("exact", 3)
    assert fidelity[2] == ("float", 2)
    assert fidelity[3] == ("float", 2)


def test_optimize_writes_external_data(run: Run, tmp_path: Path) -> None:
    weights = {"w": np.ones((64, 64), np.float32)}
    io.save(model_of("g (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", weights), "m.onnx")
    assert run("optimize", "m.onnx", "-o", "out.onnx", "--external-data").status == 0
    assert (tmp_path / "out.onnx.data").stat().st_size >= 64 * 64 * 4
    assert (tmp_path / "out.onnx").stat().st_size < 2000


def test_optimize_runs_a_pass_of_the_users(run: Run, mlp: Path, tmp_path: Path) -> None:
    (tmp_path / "my_passes.py").write_text(DROP_RELU)
    result = run("optimize", mlp, "-o", "out.onnx", "--load", "my_passes.py", "-p", "cli-test-drop-relu")
    assert result.status == 0, result.err
    assert "Relu" not in ops(io.load("out.onnx"))


DROP_RELU = """
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from graphopt import Fidelity, RewritePass

@dataclass(frozen=True)
class DropRelu(RewritePass):
    '''Drop every Relu, which is wrong.'''

    name: ClassVar[str] = "cli-test-drop-relu"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    ops: ClassVar[tuple[str, ...]] = ("Relu",)

    def match(self, node, context):
        return node

    def rewrite(self, node, rewriter):
        rewriter.replace(node, [node.inputs[0]])
"""


@pytest.fixture
def wrong_pass(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.py"
    path.write_text(DROP_RELU)
    return path


def test_optimize_verify_catches_a_wrong_pass(run: Run, mlp: Path, wrong_pass: Path) -> None:
    passes = "O0,cli-test-drop-relu"
    result = run(
        "optimize", mlp, "-o", "out.onnx", "--load", wrong_pass, "-p", passes, "--verify", "--reproducer", "rep"
    )
    assert result.status == 1
    assert "cli-test-drop-relu" in result.err
    assert not Path("out.onnx").exists()
    assert list(Path("rep").glob("*/model.onnx"))


def test_bisect_names_the_wrong_pass(run: Run, mlp: Path, wrong_pass: Path) -> None:
    passes = "O0,fuse-matmul-add,cli-test-drop-relu"
    result = run("bisect", mlp, "--load", wrong_pass, "-p", passes, "--json")
    assert result.status == 1
    culprit = result.json["culprit"]
    assert culprit["pass"] == "cli-test-drop-relu"
    assert culprit["rewrite"]["number"] == 1


def test_bisect_finds_nothing_wrong(run: Run, mlp: Path) -> None:
    result = run("bisect", mlp)
    assert result.status == 0
    assert "every step" in result.out


def test_bisect_with_a_command(run: Run, mlp: Path, tmp_path: Path) -> None:
    (tmp_path / "check.py").write_text(
        "import sys, onnx\nsys.exit(any(n.op_type == 'Gemm' for n in onnx.load(sys.argv[1]).graph.node))"
    )
    result = run("bisect", mlp, "--check", f"{sys.executable} check.py {{model}}", "--json")
    assert result.status == 1
    assert result.json["culprit"]["pass"] == "fuse-matmul-add"


def test_pass_limit_stops_after_that_many_rewrites(run: Run, mlp: Path) -> None:
    assert run("optimize", mlp, "-o", "out.onnx", "-p", "O0,fuse-matmul-add", "--pass-limit", 0).status == 0
    assert ops(io.load("out.onnx")) == {"MatMul": 1, "Add": 1, "Relu": 1}


def test_print_changed_shows_what_a_pass_did(run: Run, mlp: Path) -> None:
    result = run("optimize", mlp, "-o", "out.onnx", "-p", "O0,fuse-matmul-add", "--print-changed")
    assert "fuse-matmul-add" in result.err
    assert "Gemm" in result.err


def test_compile_run_and_verify(run: Run, mlp: Path, tmp_path: Path) -> None:
    result = run("compile", mlp, "--verify")
    assert result.status == 0, result.err
    assert "wrote" in result.out
    assert "largest relative error" in result.out
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    np.savez("x.npz", x=x)
    ran = run("run", "mlp.gopt", "--inputs", "x.npz", "--outputs", "y.npz", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["outputs"]["y"]["shape"] == [5, 3]
    weights = mlp_weights()
    with np.load("y.npz") as file:
        np.testing.assert_allclose(file["y"], np.maximum(x @ weights["w"] + weights["b"], 0), rtol=1e-5, atol=1e-6)
    checked = run("verify", "mlp.gopt", mlp, "--inputs", "x.npz", "--json").json
    assert checked["ok"]
    assert checked["elements"] == 15


def test_compile_reports_as_json_and_fixes_shapes(run: Run, mlp: Path) -> None:
    found = run("compile", mlp, "-o", "fixed.gopt", "--input", "x:2x4", "--json").json
    assert found["artifact"] == "fixed.gopt"
    assert found["manifest"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": [2, 4]}]
    assert found["nodes"] == {"before": 3, "after": 2}
    code = found["report"]["code"]
    assert code["stages"]["generating code"] > 0
    assert {layer for kernel in code["kernels"] for layer in kernel["layers"]} == {"t", "u", "y"}
    assert all(kernel["seconds"] > 0 and kernel["bytes"] > 0 for kernel in code["kernels"])
    assert json.loads(Path("fixed.gopt/report.json").read_text())["code"] is None  # it would differ with each build


def test_compile_shows_what_took_long(run: Run, mlp: Path) -> None:
    text = run("compile", mlp, "-o", "shown.gopt", "-v").out
    assert "generating code" in text
    assert "of 2 kernels" in text  # the other one computes sizes
    assert "t +2" in text.split("slowest")[1]


def test_run_prints_a_table(run: Run, compiled: Path) -> None:
    np.savez("x.npz", x=np.zeros((1, 4), np.float32))
    result = run("run", compiled, "--inputs", "x.npz", "--threads", 1)
    assert result.status == 0
    assert "float32[1,3]" in result.out


def test_verify_fails_on_another_model(run: Run, compiled: Path, mlp: Path) -> None:
    weights = mlp_weights()
    weights["b"] = weights["b"] + np.float32(1)
    io.save(
        model_of("g (float[N,4] x) => (float[N,3] y) { t = MatMul(x, w)  u = Add(t, b)  y = Relu(u) }", weights),
        "other.onnx",
    )
    result = run("verify", compiled, "other.onnx")
    assert result.status == 1
    assert "WRONG" in result.out
    assert "NOT the same" in result.out
    assert run("verify", compiled, "other.onnx", "--json").json["ok"] is False
    assert run("verify", mlp, mlp, "--tolerance", "0").status == 0


def test_bench_measures_both(run: Run, compiled: Path, mlp: Path) -> None:
    found = run("bench", compiled, "--model", mlp, "--runs", 3, "--input", "x:8x4", "--json").json
    assert set(found["timings"]) == {"graphopt", "onnxruntime"}
    assert found["inputs"] == {"x": [8, 4]}
    assert found["ratio"] == pytest.approx(found["timings"]["onnxruntime"]["p50"] / found["timings"]["graphopt"]["p50"])
    assert found["timings"]["graphopt"]["runs"] == 3
    assert run("bench", compiled, "--model", mlp, "--runs", 1, "--json").json["inputs"] == {"x": [1, 4]}
    text = run("bench", compiled, "--runs", 3, "--baseline", "none").out
    assert "graphopt" in text
    assert "ONNX Runtime" not in text


def test_inspect_counts(run: Run, mlp: Path) -> None:
    found = run("inspect", mlp, "--input", "x:2x4", "--json").json
    assert found["parameters"] == 15
    assert found["bytes"] == 60
    assert found["flops"] == 2 * 2 * 3 * 4 + 2 * 3 + 2 * 3
    assert found["operators"] == {"MatMul": 1, "Add": 1, "Relu": 1}
    text = run("inspect", mlp).out
    assert "MatMul" in text
    assert "--input x:2x4" in text


def test_inspect_an_artifact(run: Run, compiled: Path) -> None:
    found = run("inspect", compiled, "--json").json
    assert found["artifact"]["fidelity"] == "float"
    assert "lib.so" in found["artifact"]["files"]
    text = run("inspect", compiled).out
    assert "weights.bin" in text
    assert "pipeline" in text


def test_inspect_says_what_a_target_supports(run: Run, mlp: Path) -> None:
    result = run("inspect", mlp, "--target", "arm")
    assert result.status == 0
    assert "every node is supported" in result.out


QUANTIZED = """q (float[2,4] x) => (float[2,3] y) { i = QuantizeLinear(x, s, z)  d = DequantizeLinear(i, s, z)
    w = DequantizeLinear(v, s)  t = MatMul(d, w)  r = Relu(t)  y = MatMul(r, u) }"""


def test_inspect_says_which_products_are_on_integers(run: Run, mlp: Path) -> None:
    weights = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8), "u": np.ones((3, 3), np.float32)}
    io.save(model_of(QUANTIZED, {**weights, "v": np.ones((4, 3), np.int8)}), "q.onnx")
    found = run("inspect", "q.onnx", "-t", "x86:v4", "--json").json["integers"]
    assert [(p["flops"], p["int8"], p["reason"]) for p in found["products"]] == [
        (2 * 2 * 4 * 3, True, ""),
        (2 * 2 * 3 * 3, False, "its data is not quantized"),
    ]
    assert (found["int8_flops"], found["flops"], found["target"]) == (48, 84, "x86:v4")
    assert found["int8_share"] == pytest.approx(48 / 84)
    text = run("inspect", "q.onnx", "-t", "x86:v4").out
    assert "its data is not quantized" in text
    assert "8-bit integers" in text
    reason = run("inspect", "q.onnx", "-t", "cuda", "--json").json["integers"]["products"][0]["reason"]
    assert reason == "cuda has no kernels for integers"
    assert "integers" not in run("inspect", mlp, "--json").json


def test_diff_shows_what_became_of_each_node(run: Run, mlp: Path) -> None:
    run("optimize", mlp, "-o", "out.onnx", "-p", "O0,fuse-matmul-add")
    found = run("diff", mlp, "out.onnx", "--json").json
    assert not found["same"]
    assert found["operators"]["Gemm"] == {"before": 0, "after": 1}
    changed = {change["what"]: change["after"] for change in found["nodes"]}
    assert "Gemm" in changed["t"]
    assert "Gemm" in changed["u"]
    assert run("diff", mlp, mlp, "--json").json["same"]
    assert "Gemm" in run("diff", mlp, "out.onnx").out


def test_passes_lists_passes_and_pipelines(run: Run) -> None:
    found = run("passes", "--json").json
    assert found["passes"]["fold-constants"]["options"]["limit"] > 0
    assert found["passes"]["fuse-conv-bn"]["fidelity"] == "float"
    assert "default" in found["pipelines"]
    assert all(facts["summary"] for facts in found["passes"].values())
    assert "fuse-conv-bn" in run("passes").out
    assert "fidelity: float" in run("passes", "fuse-conv-bn").out
    assert run("passes", "default").status == 0


def test_targets_lists_what_they_need(run: Run) -> None:
    found = run("targets", "--json").json["targets"]
    assert {"host", "x86", "arm", "cuda"} <= set(found)
    assert found["host"]["runs_here"]
    assert any(need["name"].startswith("apache-tvm ") and need["met"] for need in found["arm"]["needs"])
    text = run("targets", "arm:cortex-a76").out
    assert "aarch64" in text
    assert "what compiling needs" in text
