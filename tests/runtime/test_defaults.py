"""Inputs with defaults: given by the caller or left out, in the artifact, its session and on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from graphopt import io, runtime
from graphopt.cli.app import run_command
from graphopt.driver import compiling
from graphopt.errors import InputError
from graphopt.ir import Model
from graphopt.runtime.artifact import Artifact
from tests.helpers import model_of

SCALE = np.linspace(-1, 1, 600, dtype=np.float32)
X = np.random.default_rng(0).normal(size=(2, 600)).astype(np.float32)


def model() -> Model:
    """`y = x * scale + shift`; a caller may give `scale` and `shift`, or leave them out."""
    sides = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", ["N", 600]), ("scale", [600]), ("shift", []))]
    nodes = [helper.make_node("Mul", ["x", "scale"], ["p"]), helper.make_node("Add", ["p", "shift"], ["y"])]
    weights = [numpy_helper.from_array(a, n) for n, a in (("scale", SCALE), ("shift", np.array(0.5, np.float32)))]
    result = helper.make_tensor_value_info("y", 1, ["N", 600])
    graph = helper.make_graph(nodes, "g", sides, [result], weights)
    return io.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return compiling.compile(model(), verify=True)


@pytest.mark.parametrize(
    ("more", "scale", "shift"),
    [
        ({}, SCALE, 0.5),
        ({"shift": np.array(-2.0, np.float32)}, SCALE, -2.0),
        ({"scale": SCALE[::-1].copy(), "shift": np.array(1.0, np.float32)}, SCALE[::-1], 1.0),
    ],
)
def test_given_or_left_out(artifact: Artifact, more: dict[str, np.ndarray], scale: np.ndarray, shift: float) -> None:
    for _ in range(2):
        np.testing.assert_allclose(artifact.run({"x": X, **more})["y"], X * scale + shift, rtol=1e-6, atol=1e-6)


def test_the_manifest_says_where_they_are(artifact: Artifact) -> None:
    assert [info.name for info in artifact.manifest.inputs] == ["x", "scale", "shift"]
    assert {name: place.shape for name, place in artifact.manifest.defaults.items()} == {"scale": (600,), "shift": ()}


def test_only_those_may_be_left_out(artifact: Artifact) -> None:
    with pytest.raises(InputError, match="no array given for input 'x'"):
        artifact.run({"shift": np.array(1.0, np.float32)})
    with pytest.raises(InputError, match="there is no input 'scales'"):
        artifact.run({"x": X, "scales": SCALE})


def test_a_default_is_not_written_to(artifact: Artifact, tmp_path: Path) -> None:
    """A result that is the default itself is a copy of it."""
    text = "g (float[3] x = {1, 2, 3}) => (float[3] y) { y = Identity(x) }"
    session = runtime.load(compiling.compile(model_of(text)).save(tmp_path / "m.gopt"))
    first = session.run({})["y"]
    first[:] = 7
    assert session.run({})["y"].tolist() == [1, 2, 3]


def test_on_the_command_line(artifact: Artifact, tmp_path: Path) -> None:
    path = artifact.save(tmp_path / "m.gopt")
    for more in ({}, {"shift": np.array(4.0, np.float32)}):
        np.savez(tmp_path / "x.npz", x=X, **more)
        assert (
            run_command(["run", str(path), "--inputs", str(tmp_path / "x.npz"), "--outputs", str(tmp_path / "y.npz")])
            == 0
        )
        y = np.load(tmp_path / "y.npz")["y"]
        np.testing.assert_allclose(y, X * SCALE + more.get("shift", 0.5), rtol=1e-6, atol=1e-6)
