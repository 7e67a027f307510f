"""The table of operator facts, checked line by line against ONNX's schemas and inference and ONNX Runtime's results."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from graphopt.ir.facts import FACTS, Kind, Placement, Role, Trait, facts_of, operators
from graphopt.operators import OPERATORS

OPSET = 24
SHAPE = (3, 5, 7)
STANDARD = sorted(op for op in FACTS if "::" not in op)
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 2.5], np.float32)

LISTS: dict[str, dict[int, np.ndarray]] = {
    "BatchNormalization": dict.fromkeys((1, 2, 3, 4), np.ones(5, np.float32)),
    "CumProd": {1: np.array(1)},
    "CumSum": {1: np.array(1)},
    "DequantizeLinear": {1: np.array(0.5, np.float32)},
    "GroupNormalization": dict.fromkeys((1, 2), np.ones(5, np.float32)),
    "InstanceNormalization": dict.fromkeys((1, 2), np.ones(5, np.float32)),
    "LayerNormalization": {1: np.ones(7, np.float32)},
    "QuantizeLinear": {1: np.array(0.5, np.float32)},
    "RMSNormalization": {1: np.ones(7, np.float32)},
    "Reshape": {1: np.array([7, 15])},
    "ReverseSequence": {1: np.array([1, 2, 3, 2, 1])},
    "RotaryEmbedding": dict.fromkeys((1, 2), np.ones((5, 7, 2), np.float32)),
    "ScatterElements": {1: np.zeros((1, 1, 1), np.int64), 2: np.ones((1, 1, 1), np.float32)},
    "ScatterND": {1: np.zeros((1, 1), np.int64), 2: np.ones((1, 5, 7), np.float32)},
    "Squeeze": {1: np.array([0])},
    "TensorScatter": {1: np.ones((3, 1, 7), np.float32), 2: np.zeros(3, np.int64)},
    "Unsqueeze": {1: np.array([0])},
}
"""Inputs, past the first, that an operator needs."""

ATTRIBUTES: dict[str, dict[str, Any]] = {
    "BitShift": {"direction": "LEFT"},
    "Cast": {"to": TensorProto.DOUBLE},
    "GroupNormalization": {"num_groups": 5},
    "LRN": {"size": 3},
    "Mod": {"fmod": 1},
}
FIRST: dict[str, np.ndarray] = {
    "RotaryEmbedding": np.ones((3, 5, 7, 4), np.float32),
    "Squeeze": np.ones((1, 5, 7), np.float32),
    "DequantizeLinear": np.ones(SHAPE, np.int8),
    "BitShift": np.ones(SHAPE, np.uint32),
}


def schema_of(op: str) -> onnx.defs.OpSchema:
    try:
        return onnx.defs.get_schema(op, OPSET, "")
    except onnx.defs.SchemaError:
        return onnx.defs.get_schema(op, onnx.defs.onnx_opset_version(), "")


def is_allowed(schema: onnx.defs.OpSchema, index: int, kind: str) -> bool:
    port = schema.inputs[min(index, len(schema.inputs) - 1)]
    return f"tensor({kind})" in port.types


def sample(op: str, index: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Positive numbers below one where the operator takes floats, small integers or booleans elsewhere."""
    rng = np.random.default_rng(index)
    schema = schema_of(op)
    if is_allowed(schema, index, "float"):
        return rng.uniform(0.1, 0.9, shape).astype(np.float32)
    kind = next(kind for kind in ("int32", "uint32", "bool") if is_allowed(schema, index, kind))
    return rng.integers(0, 2, shape).astype(kind)


def outputs_of(op: str) -> list[str]:
    return ["y", "z", "v", "w"][: max(1, schema_of(op).min_output)]


def model_of(op: str, arrays: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A model of one operator on inputs of these types and any shape, the first output of it."""
    schema = schema_of(op)
    names = list(arrays)
    node = helper.make_node(op, names, outputs_of(op), **ATTRIBUTES.get(op, {}))
    ports = [onnx.ValueInfoProto(name=name) for name in names]
    for port, array in zip(ports, arrays.values(), strict=True):
        port.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(array.dtype)
    graph = helper.make_graph([node], "g", ports, [onnx.ValueInfoProto(name="y")])
    opset = max(OPSET, schema.since_version)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)


@functools.cache
def session_of(op: str, kinds: tuple[str, ...]) -> onnxruntime.InferenceSession:
    arrays = {f"x{i}": np.zeros(1, kind) for i, kind in enumerate(kinds)}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model_of(op, arrays).SerializeToString(), options)


def run(op: str, *arrays: np.ndarray) -> np.ndarray:
    session = session_of(op, tuple(str(array.dtype) for array in arrays))
    return session.run(None, {f"x{i}": array for i, array in enumerate(arrays)})[0]


def given(op: str) -> list[np.ndarray]:
    """Inputs that an operator takes: the first, and those that it demands."""
    schema, listed = schema_of(op), LISTS.get(op, {})
    count = max(schema.min_input, *(i + 1 for i in listed), 1) if listed else max(schema.min_input, 1)
    first = FIRST.get(op, sample(op, 0))
    rest = [listed[i] if i in listed else sample(op, i) for i in range(1, count)]
    if op == "BitShift":
        rest = [np.ones(SHAPE, np.uint32)]
    return [first, *rest]


def inferred(op: str) -> tuple[int | None, ...]:
    """The shape that ONNX's inference finds for the first output."""
    arrays = {f"x{i}": array for i, array in enumerate(given(op))}
    types = {
        name: helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in arrays.items()
    }
    data = {name: numpy_helper.from_array(array, name) for name, array in list(arrays.items())[1:]}
    node = helper.make_node(op, list(arrays), outputs_of(op), **ATTRIBUTES.get(op, {}))
    opset = helper.make_opsetid("", max(OPSET, schema_of(op).since_version))
    found = shape_inference.infer_node_outputs(schema_of(op), node, types, data, opset_imports=[opset])
    return tuple(dim.dim_value or None for dim in found["y"].tensor_type.shape.dim)


def assert_same_bits(left: np.ndarray, right: np.ndarray) -> None:
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    assert np.ascontiguousarray(left).tobytes() == np.ascontiguousarray(right).tobytes()


@pytest.mark.parametrize("op", STANDARD)
def test_the_operator_exists_and_has_the_inputs_named(op: str) -> None:
    schema = schema_of(op)
    assert all(0 <= index < schema.max_input for index in facts_of(op).roles)
    if Trait.RANDOM in facts_of(op).traits:
        assert "seed" in schema.attributes
    if Trait.VARIADIC in facts_of(op).traits:
        assert schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic


def test_no_random_operator_is_missing() -> None:
    seeded = {
        schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain and "seed" in schema.attributes
    }
    assert seeded == operators(traits=Trait.RANDOM) | operators(traits=Trait.RANDOM_IN_TRAINING)


def test_other_domains() -> None:
    ours = {op for op in FACTS if op.startswith("graphopt::")}
    assert ours <= {f"graphopt::{name}" for name in OPERATORS}


@pytest.mark.parametrize("op", sorted(op for op in STANDARD if FACTS[op].roles))
def test_roles_that_say_integers_belong_to_inputs_that_take_integers(op: str) -> None:
    schema = schema_of(op)
    for index, role in FACTS[op].roles.items():
        if role in (Role.INDEX, Role.SHAPE, Role.LENGTH) and op not in ("Upsample", "Resize", "Loop"):
            assert is_allowed(schema, index, "int64") or is_allowed(schema, index, "int32")
        if role in (Role.UNIT, Role.POSITIVE) and op != "BitShift":
            assert is_allowed(schema, index, "float")


@pytest.mark.parametrize("op", [op for op in STANDARD if FACTS[op].keeps_shape])
def test_the_shape_is_kept(op: str) -> None:
    arrays = given(op)
    assert (inferred(op) or run(op, *arrays).shape) == arrays[0].shape  # inference does not look into functions


@pytest.mark.parametrize("op", [op for op in STANDARD if FACTS[op].is_elementwise])
def test_elements_are_computed_one_by_one(op: str) -> None:
    arrays = given(op)
    order = np.random.default_rng(9).permutation(SHAPE[0] * SHAPE[1] * SHAPE[2])

    def mixed(array: np.ndarray) -> np.ndarray:
        return array.ravel()[order].reshape(7, 5, 3)

    expected, found = mixed(run(op, *arrays)), run(op, *map(mixed, arrays))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("op", [op for op in STANDARD if FACTS[op].kind is Kind.BROADCAST])
def test_operands_are_broadcast(op: str) -> None:
    arrays = given(op)
    small = [array[:1, :, :1] for array in arrays[1:]]
    full = [np.broadcast_to(array, SHAPE).copy() for array in small]
    assert_same_bits(run(op, arrays[0], *small), run(op, arrays[0], *full))


KINDS = {np.float32: "float", np.float64: "double", np.int32: "int32", np.bool_: "bool"}
PLACED = [
    (op, dtype)
    for op in STANDARD
    if FACTS[op].is_elementwise
    for dtype, kind in KINDS.items()
    if is_allowed(schema_of(op), 1 if op == "Where" else 0, kind)
    and (
        FACTS[op].placement is Placement.ANY
        or (FACTS[op].placement is Placement.HALF_AND_SINGLE and dtype == np.float32)
        or (FACTS[op].placement is Placement.INTEGER and dtype == np.int32)
    )
]


@pytest.mark.parametrize(("op", "dtype"), PLACED)
def test_the_bits_do_not_depend_on_the_place(op: str, dtype: type) -> None:
    rng = np.random.default_rng(0)
    count = len(given(op))
    arrays = [rng.normal(0, 2, 67).astype(dtype) for _ in range(count)]
    if op == "Div":
        arrays[1][arrays[1] == 0] = 1
    if op == "Where":
        arrays[0] = rng.integers(0, 2, 67).astype(bool)
    try:
        whole = run(op, *arrays)
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        pytest.skip("ONNX Runtime has no kernel for this type")
    for at in range(67):
        assert_same_bits(run(op, *(array[at : at + 1] for array in arrays)), whole[at : at + 1])


@pytest.mark.parametrize("op", sorted(operators(Kind.VIEW)))
def test_a_view_keeps_the_elements_in_order(op: str) -> None:
    arrays = given(op)
    assert_same_bits(run(op, *arrays).ravel(), arrays[0].ravel())


@pytest.mark.parametrize("op", sorted(operators(traits=Trait.COMMUTATIVE) | operators(traits=Trait.SYMMETRIC)))
def test_operands_may_be_exchanged(op: str) -> None:
    left, right = given(op)[0], sample(op, 1)
    assert_same_bits(run(op, left, right), run(op, right, left))
    if Trait.COMMUTATIVE in FACTS[op].traits and left.dtype == np.float32:
        pairs = [a.ravel().copy() for a in np.meshgrid(SPECIAL[:6], SPECIAL[:6])]
        assert_same_bits(np.nan_to_num(run(op, *pairs)), np.nan_to_num(run(op, *pairs[::-1])))


@pytest.mark.parametrize("op", sorted(operators(traits=Trait.IDEMPOTENT)))
def test_applied_twice_it_is_applied_once(op: str) -> None:
    once = run(op, SPECIAL)
    assert_same_bits(run(op, once), once)


@pytest.mark.parametrize("op", sorted(operators(traits=Trait.INVOLUTION)))
def test_applied_twice_it_is_undone(op: str) -> None:
    array = SPECIAL if is_allowed(schema_of(op), 0, "float") else sample(op, 0)
    assert_same_bits(run(op, run(op, array)), array)


@pytest.mark.parametrize("op", sorted(operators(traits=Trait.NONNEGATIVE)))
def test_never_below_zero(op: str) -> None:
    rng = np.random.default_rng(1)
    found = run(op, np.concatenate([SPECIAL, rng.normal(0, 50, 500).astype(np.float32)]))
    assert not (found < 0).any()


@pytest.mark.parametrize("op", sorted(operators(traits=Trait.PREDICATE)))
def test_a_predicate_gives_booleans(op: str) -> None:
    assert run(op, *given(op)).dtype == np.bool_


@pytest.mark.parametrize("op", sorted(operators(traits=Trait.TRIVIAL) - operators(Kind.REDUCE) - {"Concat"}))
def test_of_one_input_it_is_that_input(op: str) -> None:
    assert_same_bits(run(op, SPECIAL), SPECIAL)


@pytest.mark.parametrize("op", sorted(operators(traits=Trait.DATA_SIZED)))
def test_the_size_of_a_result_depends_on_data(op: str) -> None:
    assert None in tuple(shape_of_data_sized(op))


def shape_of_data_sized(op: str) -> tuple[int | None, ...]:
    arguments = {"Compress": [np.ones(3, np.float32), np.ones(3, bool)]}
    arguments["NonMaxSuppression"] = [np.ones((1, 4, 4), np.float32), np.ones((1, 2, 4), np.float32)]
    arrays = {f"x{i}": array for i, array in enumerate(arguments.get(op, [np.ones(4, np.float32)]))}
    model = model_of(op, arrays)
    for port, array in zip(model.graph.input, arrays.values(), strict=True):
        for size in array.shape:
            port.type.tensor_type.shape.dim.add(dim_value=size)
    output = shape_inference.infer_shapes(model).graph.output[0].type.tensor_type
    return tuple(dim.dim_value or None for dim in output.shape.dim) or (None,)
