"""Models that ONNX Runtime loads but onnx.checker rejects are accepted with a warning, and mean the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import io
from graphopt.cli.app import run_command
from graphopt.errors import ModelError, ModelWarning
from graphopt.ir.sparse import DENSE_LIMIT
from graphopt.proof.oracle import Reference

node = helper.make_node
RNG = np.random.default_rng(5)


def port(name: str, shape: Any = ("n", 3), dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def weight(name: str = "w", values: Any = (1.0, -2.0, 3.0)) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.float32), name)


def model(
    nodes: list[onnx.NodeProto] | None = None,
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    weights: tuple[onnx.TensorProto, ...] = (),
    opset: int = 17,
    **more: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node("Relu", ["x"], ["y"])] if nodes is None else nodes,
        "g",
        [port("x")] if inputs is None else inputs,
        [port("y")] if outputs is None else outputs,
        list(weights),
        value_info=more.pop("value_info", None),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **more)


OPSET_17 = helper.make_opsetid("", 17)
ADD = [node("Add", ["x", "w"], ["y"])]
TWO = [node("Relu", ["x"], ["m"]), node("Neg", ["m"], ["y"])]


def changed(proto: onnx.ModelProto, change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    change(proto)
    return proto


def sparse(values: list[float], indices: Any, shape: tuple[int, ...] = (3,)) -> onnx.SparseTensorProto:
    places = numpy_helper.from_array(np.array(indices, np.int64), "")
    return helper.make_sparse_tensor(weight("w", values), places, shape)


def with_sparse(tensor: onnx.SparseTensorProto, **more: Any) -> onnx.ModelProto:
    return changed(model(ADD, **more), lambda m: m.graph.sparse_initializer.append(tensor))


def group_norm() -> onnx.ModelProto:
    weights = (weight("s", [1.5, -2.0]), weight("b", [0.5, 3.0]))
    nodes = [node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)]
    return model(nodes, [port("x", ("n", 6, 5))], [port("y", ("n", 6, 5))], weights, opset=18)


def branches() -> onnx.ModelProto:
    then, other = (
        helper.make_graph([node(op, ["x"], ["t"])], op, [], [result])
        for op, result in (("Relu", port("t", (1, 2, 3))), ("Neg", onnx.ValueInfoProto(name="t")))
    )
    return model(
        [node("If", ["c"], ["y"], then_branch=then, else_branch=other)], [port("x"), port("c", (), TensorProto.BOOL)]
    )


TAKEN: dict[str, tuple[onnx.ModelProto, str]] = {
    "an output without a shape": (model(outputs=[port("y", None)]), "'y' is declared without a shape"),
    "an output without a type": (model(outputs=[onnx.ValueInfoProto(name="y")]), "'y' is declared without a shape"),
    "an output of another rank": (
        model(outputs=[port("y", (1, 2, 3))]),
        r"'y' is declared as float32\[1,2,3\], but its node returns float32\[n,3\]",
    ),
    "an output of another size": (model(outputs=[port("y", ("n", 4))]), "'y' is declared"),
    "an output of another rank after a Reshape": (
        model(
            [
                node("Shape", ["x"], ["s"]),
                node("Concat", ["s", "one"], ["t"], axis=0),
                node("Reshape", ["x", "t"], ["r"]),
                node("Neg", ["r"], ["y"]),
            ],
            weights=(numpy_helper.from_array(np.array([1], np.int64), "one"),),
            opset=12,
        ),
        r"'y' is declared as float32\[n,3\]",
    ),
    "a value of another rank": (model(TWO, value_info=[port("m", (1, 2, 3))]), "'m' is declared"),
    "a branch's output of another rank": (branches(), "'t' is declared"),
    "an input without a shape": (model(inputs=[port("x", None)]), "'shape' of 'type' is required"),
    "an initializer that is there twice": (model(ADD, weights=(weight(), weight("w", [7, 8, 9]))), "'w' occurs more"),
    "an output that is listed twice": (model(outputs=[port("y"), port("y")]), "'y' is listed more than once"),
    "a graph without a name": (changed(model(), lambda m: m.graph.ClearField("name")), ""),
    "IR version 2": (changed(model(opset=8), lambda m: setattr(m, "ir_version", 2)), ""),
    "a domain that is not imported": (
        model([node("Gelu", ["x"], ["y"], domain="com.microsoft")]),
        "no opset is imported for domain 'com.microsoft'",
    ),
    "a function named like an operator": (
        model(functions=[helper.make_function("", "Relu", ["a"], ["b"], [node("Neg", ["a"], ["b"])], [OPSET_17])]),
        "function 'Relu' has the name of an ONNX operator",
    ),
    "a sparse initializer": (with_sparse(sparse([2.0], [1])), ""),
    "a sparse initializer of two dimensions": (with_sparse(sparse([2.0, 5.0], [[0, 2], [3, 1]], (4, 3))), ""),
    "a sparse initializer without values": (with_sparse(sparse([], np.zeros(0))), ""),
    "a sparse initializer out of order": (with_sparse(sparse([2.0, 5.0], [2, 0])), ""),
    "a sparse initializer with an index twice": (with_sparse(sparse([2.0, 5.0], [1, 1])), ""),
    "a sparse default of an input": (with_sparse(sparse([2.0], [1]), inputs=[port("x"), port("w", (3,))]), ""),
    "a sparse constant": (model([node("Constant", [], ["w"], sparse_value=sparse([2.0], [1])), *ADD]), ""),
    "a deprecated operator": (group_norm(), "GroupNormalization is deprecated"),
    "nodes out of order": (model(TWO[::-1]), ""),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_onnx_runtime_takes_is_taken(name: str) -> None:
    proto, message = TAKEN[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read = io.load(proto)
        optimized, _ = graphopt.optimize(read)
    assert all(issubclass(w.category, ModelWarning) for w in caught)
    if message:
        with pytest.warns(ModelWarning, match=message):
            io.load(proto)
    else:
        assert not caught
    shapes = {"x": (2, 6, 5) if "deprecated" in name else (4, 3) if "two dim" in name else (2, 3)}
    feeds: dict[str, Any] = {"x": RNG.normal(size=shapes["x"]).astype(np.float32)}
    for condition in (True, False) if "branch" in name else (None,):
        if condition is not None:
            feeds["c"] = np.array(condition)
        with Reference(proto) as theirs, Reference(read) as ours, Reference(optimized) as smaller:
            want = theirs.run(feeds)["y"]
            assert np.array_equal(ours.run(feeds)["y"], want)
            np.testing.assert_allclose(smaller.run(feeds)["y"], want, rtol=1e-5, atol=1e-6)


def test_a_saved_model_is_mended() -> None:
    """A model accepted with a warning is saved in conforming form: the result loads without a warning."""
    for name in ("an output of another rank", "a sparse initializer out of order", "a deprecated operator"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ModelWarning)
            optimized, _ = graphopt.optimize(TAKEN[name][0])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            io.load(io.to_proto(optimized))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (sparse([2.0], [3]), "index outside"),
        (sparse([2.0], [-1]), "index outside"),
        (sparse([2.0], [[0, 3]], (3, 3)), "index outside"),
        (sparse([2.0, 3.0], [1]), "does not fit 2 values"),
        (sparse([2.0], [[0, 1, 2]], (3, 3)), "does not fit 1 values"),
        (sparse([2.0], [1], (DENSE_LIMIT // 4 + 1,)), "take more than 2 GiB when they are dense"),
        (sparse([2.0], [1], (1 << 40, 1 << 40)), "take more than 2 GiB when they are dense"),
        (sparse([2.0], [1], (-3,)), "negative size"),
    ],
)
def test_sparse_tensors_are_not_believed(tensor: onnx.SparseTensorProto, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        io.load(with_sparse(tensor))


def test_the_limit_of_sparse_tensors_is_one_for_the_whole_model() -> None:
    proto = model()
    for index in range(3):
        proto.graph.sparse_initializer.append(sparse([1.0], [0], (DENSE_LIMIT // 10,)))
        proto.graph.sparse_initializer[-1].values.name = f"w{index}"
    with pytest.raises(ModelError, match="tensor 'w2': the model's sparse tensors take more"):
        io.load(proto)


def test_what_neither_takes_is_refused_and_both_are_named() -> None:
    with pytest.raises(ModelError, match=r"(?s)onnx.checker.*Rellu.*ONNX Runtime does not load it either"):
        io.load(model([node("Rellu", ["x"], ["y"])]))


def test_the_command_line_says_each_thing_once_on_stderr(tmp_path: Any, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(TAKEN["an output of another rank"][0].SerializeToString())
    assert run_command(["optimize", str(path), "-o", str(tmp_path / "o.onnx")]) == 0
    out, err = capfd.readouterr()
    assert [line for line in err.splitlines() if "warning" in line] == [
        f"warning: {path}: 'y' is declared as float32[1,2,3], but its node returns float32[n,3]: using the latter"
    ]
    assert "warning" not in out
