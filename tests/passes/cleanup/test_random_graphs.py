"""Random small graphs: cleaning them keeps every bit, whatever NaN, infinities and zeros of both signs flow through."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from graphopt import io
from graphopt.ir import infer_shapes, verify
from graphopt.pipeline import PassManager, Pipeline
from graphopt.reference import Reference
from graphopt.tolerance import EXACT, compare

CLEAN = (
    "infer-shapes,fixpoint{max=4}(fold-if,eliminate-dead,fold-constants,fold-shapes,remove-no-ops,simplify-cast,"
    "simplify-reshape,simplify-transpose,eliminate-common-subexpressions,infer-shapes),share-weights,eliminate-dead"
)
UNARY = ("Neg", "Abs", "Relu", "Floor", "Ceil", "Round", "Sign", "Identity", "Exp", "Sqrt", "Dropout", "Sigmoid")
BINARY = ("Add", "Sub", "Mul", "Div")
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -1.5, 7.0, float("nan"), float("inf"), -float("inf"))
NEUTRAL = (0.0, -0.0, 1.0, -1.0, 2.0)


class Builder:
    """A graph that grows by one random operator at a time; every value is float32 of a known shape."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        rank = draw(st.integers(1, 3))
        self.input_shape = tuple(draw(st.sampled_from((1, 2, 3))) for _ in range(rank))
        self.shapes: dict[str, tuple[int, ...]] = {"X": self.input_shape}
        self.symbolic = draw(st.booleans())

    def name(self) -> str:
        return f"v{len(self.nodes)}_{len(self.weights)}"

    def node(self, op: str, inputs: list[str], shape: tuple[int, ...] | None = None, **attributes: object) -> str:
        output = self.name()
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        if shape is not None:
            self.shapes[output] = shape
        return output

    def constant(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}_{len(self.nodes)}"
        if self.draw(st.booleans()):
            self.weights.append(onnx.numpy_helper.from_array(array, name))
            return name
        return self.node("Constant", [], value=onnx.numpy_helper.from_array(array))

    def ints(self, *items: int) -> str:
        return self.constant(np.array(items, np.int64))

    def any_value(self) -> str:
        return self.draw(st.sampled_from(sorted(self.shapes)))

    def grow(self) -> None:
        self.draw(st.sampled_from(STEPS))(self)

    def unary(self) -> None:
        source = self.any_value()
        self.node(self.draw(st.sampled_from(UNARY)), [source], self.shapes[source])

    def binary(self) -> None:
        left = self.any_value()
        same = [name for name, shape in sorted(self.shapes.items()) if shape == self.shapes[left]]
        right = self.draw(st.sampled_from(same))
        self.node(self.draw(st.sampled_from(BINARY)), [left, right], self.shapes[left])

    def with_constant(self) -> None:
        source = self.any_value()
        shape = self.draw(st.sampled_from(((), (1,), self.shapes[source])))
        array = np.full(shape, self.draw(st.sampled_from(NEUTRAL)), np.float32)
        operands = [source, self.constant(array)]
        if self.draw(st.booleans()):
            operands.reverse()
        self.node(self.draw(st.sampled_from(BINARY)), operands, np.broadcast_shapes(shape, self.shapes[source]))

    def of_constants(self) -> None:
        numbers = self.draw(st.lists(st.sampled_from(SPECIAL), min_size=3, max_size=3))
        self.node("Exp", [self.constant(np.array(numbers, np.float32))], (3,))

    def transpose(self) -> None:
        source = self.any_value()
        shape = self.shapes[source]
        perm = self.draw(st.permutations(range(len(shape))))
        self.node("Transpose", [source], tuple(shape[axis] for axis in perm), perm=perm)

    def reshape(self) -> None:
        source = self.any_value()
        size = int(np.prod(self.shapes[source]))
        shape = self.draw(st.sampled_from([s for s in ((size,), (1, size), (size, 1), (1, -1), (-1,)) if size]))
        result = tuple(np.empty(size).reshape(shape).shape)
        self.node("Reshape", [source, self.ints(*shape)], result)

    def unsqueeze(self) -> None:
        source = self.any_value()
        if len(self.shapes[source]) < 4:
            axis = self.draw(st.integers(0, len(self.shapes[source])))
            shape = self.shapes[source]
            self.node("Unsqueeze", [source, self.ints(axis)], (*shape[:axis], 1, *shape[axis:]))

    def squeeze(self) -> None:
        source = self.any_value()
        shape = self.shapes[source]
        ones = [axis for axis, size in enumerate(shape) if size == 1]
        if ones and len(shape) > 1:
            axis = self.draw(st.sampled_from(ones))
            self.node("Squeeze", [source, self.ints(axis)], (*shape[:axis], *shape[axis + 1 :]))

    def cast(self) -> None:
        source = self.any_value()
        kind = self.draw(st.sampled_from((onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT)))
        middle = self.node("Cast", [source], to=kind)
        self.node("Cast", [middle], self.shapes[source], to=onnx.TensorProto.FLOAT)

    def shape_of(self) -> None:
        """Reshape to the shape of another value of the same size, put together from its dimensions."""
        source, other = self.any_value(), self.any_value()
        if np.prod(self.shapes[source]) != np.prod(self.shapes[other]):
            return
        shape = self.node("Shape", [other])
        parts = [self.node("Gather", [shape, self.ints(axis)]) for axis in range(len(self.shapes[other]))]
        target = self.node("Concat", parts, axis=0) if parts else shape
        self.node("Reshape", [source, target], self.shapes[other])

    def concat(self) -> None:
        source = self.any_value()
        shape = self.shapes[source]
        if shape and shape[-1] < 12:
            count = self.draw(st.integers(1, 2))
            self.node("Concat", [source] * count, (*shape[:-1], shape[-1] * count), axis=-1)

    def condition(self) -> None:
        source = self.any_value()
        shape = self.shapes[source]
        branches = {}
        for key, op in (("then_branch", "Abs"), ("else_branch", "Neg")):
            out = helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, shape)
            body = [helper.make_node(op, [source], ["q"]), helper.make_node("Identity", ["q"], ["r"])]
            branches[key] = helper.make_graph(body, key, [], [out])
        condition = "C" if self.draw(st.booleans()) else self.constant(np.array(self.draw(st.booleans())))
        self.node("If", [condition], shape, **branches)

    def model(self) -> onnx.ModelProto:
        made = sorted(set(self.shapes) - {"X"}) or ["X"]
        outputs = self.draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
        if outputs == ["X"]:
            outputs = [self.node("Identity", ["X"], self.input_shape)]
        shape = [f"d{axis}" if self.symbolic else size for axis, size in enumerate(self.input_shape)]
        float32 = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "random",
            [
                helper.make_tensor_value_info("X", float32, shape),
                helper.make_tensor_value_info("C", onnx.TensorProto.BOOL, []),
            ],
            [helper.make_tensor_value_info(name, float32, [None] * len(self.shapes[name])) for name in outputs],
            self.weights,
        )
        return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


STEPS = (
    Builder.unary,
    Builder.binary,
    Builder.with_constant,
    Builder.of_constants,
    Builder.transpose,
    Builder.reshape,
    Builder.unsqueeze,
    Builder.squeeze,
    Builder.cast,
    Builder.shape_of,
    Builder.concat,
    Builder.condition,
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    builder = Builder(draw)
    for _ in range(draw(st.integers(1, 14))):
        builder.grow()
    model = builder.model()
    count = int(np.prod(builder.input_shape))
    numbers = draw(st.lists(st.sampled_from(SPECIAL), min_size=count, max_size=count))
    data = np.array(numbers, np.float32).reshape(builder.input_shape)
    return model, {"X": data, "C": np.array(draw(st.booleans()))}


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases())
def test_cleaning_keeps_every_bit(case: tuple[onnx.ModelProto, dict[str, np.ndarray]]) -> None:
    proto, inputs = case
    model = io.load(proto)
    infer_shapes(model)
    PassManager(Pipeline.parse(CLEAN)).run(model)
    verify(model)
    with Reference(proto) as before, Reference(model) as after:
        expected = before.run(inputs)
        comparison = compare(expected, after.run(inputs), EXACT)
        assert comparison.ok, comparison
    version = model.version
    PassManager(Pipeline.parse(CLEAN)).run(model)
    assert model.version == version, "cleaning what is clean changed it"
