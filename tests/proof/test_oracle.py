from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

from graphopt import io
from graphopt.errors import InputError
from graphopt.proof.oracle import OracleError, Reference, run_reference
from graphopt.rewriting.rewriter import Rewriter
from tests.helpers import model_of

ADD = "g (float[N,3] X) => (float[N,3] Y) { Y = Add(X, b) }"
B = {"b": np.array([1, 2, 3], np.float32)}
X = {"X": np.ones((2, 3), np.float32)}


def test_models_protos_bytes_and_paths_compute_the_same(tmp_path: Path) -> None:
    model = model_of(ADD, B)
    path = tmp_path / "add.onnx"
    io.save(model, path)
    proto = io.to_proto(model)
    for source in (model, proto, proto.SerializeToString(), path, str(path)):
        np.testing.assert_array_equal(run_reference(source, X)["Y"], [[2, 3, 4], [2, 3, 4]])


def test_large_weights_are_lent_and_right() -> None:
    weight = np.random.default_rng(0).normal(size=(3, 5000)).astype(np.float32)
    model = model_of("g (float[N,3] X) => (float[N,5000] Y) { Y = MatMul(X, W) }", {"W": weight})
    with Reference(model) as reference:
        assert "W" in reference._weights
        np.testing.assert_allclose(reference.run(X)["Y"], X["X"] @ weight, rtol=1e-5)


def test_large_weights_that_nothing_reads() -> None:
    model = model_of(ADD, B)
    Rewriter(model.graph).constant(np.ones((50, 50), np.float32), "unused")
    result = Rewriter(model.graph).constant(np.ones((50, 50), np.float32), "result")
    Rewriter(model.graph).set_outputs([*model.graph.outputs, result])
    with Reference(model) as reference:
        outputs = reference.run(X)
    np.testing.assert_array_equal(outputs["Y"], [[2, 3, 4], [2, 3, 4]])
    assert outputs["result"].shape == (50, 50)


def test_a_default_that_a_caller_may_override_can_be_overridden() -> None:
    proto = io.to_proto(model_of(ADD, {"b": np.zeros(3, np.float32)}))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [3]))
    model = io.load(proto)
    np.testing.assert_array_equal(run_reference(model, X)["Y"], X["X"])
    np.testing.assert_array_equal(run_reference(model, {**X, **B})["Y"], [[2, 3, 4], [2, 3, 4]])


def test_named_outputs_only() -> None:
    model = model_of("g (float[N,3] X) => (float[N,3] A, float[N,3] B) { A = Neg(X) B = Abs(X) }")
    with Reference(model) as reference:
        assert list(reference.run(X, ["B"])) == ["B"]


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_types_that_numpy_lacks_go_in_and_out(dtype: type) -> None:
    name = {"bfloat16": "bfloat16", "float8_e4m3fn": "float8e4m3fn", "float8_e5m2": "float8e5m2"}[dtype.__name__]
    model = model_of(f"g ({name}[N] X) => ({name}[N] Y, float[N] Z) {{ Y = Identity(X) Z = Cast<to=1>(X) }}")
    x = np.array([1, -2, 0.5]).astype(dtype)
    outputs = run_reference(model, {"X": x})
    assert outputs["Y"].dtype == x.dtype
    np.testing.assert_array_equal(outputs["Y"].astype(np.float32), [1, -2, 0.5])
    np.testing.assert_array_equal(outputs["Z"], [1, -2, 0.5])
    scalar = model_of(f"g ({name} X) => ({name} Y) {{ Y = Identity(X) }}")
    assert run_reference(scalar, {"X": np.asarray(x[0])})["Y"].shape == ()


def test_sequences_optionals_and_strings() -> None:
    text = """g (float[N,3] X, optional(float[2]) O, string[K] S)
        => (seq(float[N,3]) Q, optional(float[2]) P, string[K] T)
        { Q = SequenceConstruct(X, X) P = Identity(O) T = Identity(S) }"""
    outputs = run_reference(model_of(text), {**X, "O": None, "S": np.array(["a", "b"], object)})
    assert len(outputs["Q"]) == 2
    assert outputs["P"] is None
    assert list(outputs["T"]) == ["a", "b"]


def test_wrong_inputs_are_named() -> None:
    with Reference(model_of(ADD, B)) as reference:
        with pytest.raises(InputError, match=r"no input 'Z'\s+its inputs: X"):
            reference.run({**X, "Z": X["X"]})
        with pytest.raises(InputError, match="'X' is missing"):
            reference.run({})
        with pytest.raises(InputError, match="dtype float64, but must have float32"):
            reference.run({"X": np.ones((2, 3))})
        with pytest.raises(InputError, match=r"shape \[2, 4\], but must have float32\[N,3\]"):
            reference.run({"X": np.ones((2, 4), np.float32)})


def test_a_model_that_cannot_be_loaded_or_run_is_an_oracle_error(tmp_path: Path) -> None:
    with pytest.raises(OracleError, match="there is no such file"):
        Reference(tmp_path / "nothing.onnx")
    with pytest.raises(OracleError, match="cannot load"):
        Reference(b"not a model")
    reshape = model_of("g (float[N,3] X) => (float[2,3] Y) { Y = Reshape(X, s) }", {"s": np.array([2, 3])})
    with pytest.raises(OracleError, match="cannot run"):
        run_reference(reshape, {"X": np.ones((3, 3), np.float32)})


def test_constants_and_computed_weights_give_the_same_bits() -> None:
    """Packed weights would be summed in another order, and passes that fold constants be judged wrongly."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(700, 300)).astype(np.float32)
    constant = model_of("g (float[N,700] X) => (float[N,300] Y) { Y = MatMul(X, W) }", {"W": weight})
    computed = model_of("g (float[N,700] X) => (float[N,300] Y) { V = Identity(W) Y = MatMul(X, V) }", {"W": weight})
    x = {"X": rng.normal(size=(5, 700)).astype(np.float32)}
    assert run_reference(constant, x)["Y"].tobytes() == run_reference(computed, x)["Y"].tobytes()
