"""A graph that grows node by node, each of which ONNX Runtime evaluates when it is added.

So every value is known, with its dtype and shape. A node that ONNX Runtime rejects is not added, nor one whose result
depends on the rounding of earlier ones: in addition to the values, a second set of values is computed, each off by a
few roundings (`near`), and where the two diverge, a correct implementation could not be distinguished from a wrong one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from graphopt.errors import GraphOptError
from graphopt.ir import DType
from graphopt.proof.oracle import Reference
from tools.fuzzing import values

LARGEST = 20_000
"""The number of elements of the largest value of a graph."""
PARTS = {"float32": 3e-3, "float64": 1e-5}
"""How far a value and its neighbour may diverge, relative to the largest element, by dtype (else 5e-2)."""

EXACT = frozenset(
    values.words(
        """
        Abs And ArgMax ArgMin BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Clip
        Concat Constant ConstantOfShape DepthToSpace Dropout Equal Expand EyeLike Flatten Floor Gather
        GatherElements GatherND GlobalMaxPool Greater GreaterOrEqual Hardmax Identity IsInf IsNaN Less
        LessOrEqual Max MaxPool Min Neg NonZero Not OneHot Or Pad Range ReduceMax ReduceMin Relu Reshape
        ReverseSequence Round Scatter ScatterElements ScatterND Shape Sign Size Slice SpaceToDepth Split
        Squeeze Tile TopK Transpose Trilu Unsqueeze Where Xor If Cast CastLike
        """
    )
)
"""Operators whose results are not rounded, or in only one possible way."""


class Refused(Exception):
    """The node cannot be added: ONNX Runtime rejects it, or its result is not determined well enough."""


@dataclass
class Value:
    """A value of the graph: its name, its contents, and the same off by a few roundings."""

    name: str
    array: np.ndarray
    near: np.ndarray
    free: bool = False  # an input whose sizes may vary

    @property
    def dtype(self) -> str:
        return str(self.array.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)


@dataclass
class Case:
    """A model with inputs for it, and the tolerance of each output beyond what its dtype allows."""

    seed: int
    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    slack: dict[str, float] = field(default_factory=dict)

    def operators(self) -> str:
        return " ".join(node.op_type for node in self.model.graph.node if node.op_type != "Constant")


class Growing:
    """The graph of one seed. Operators (`tools/fuzzing/operators.py`) pick values of it and add nodes."""

    def __init__(self, seed: int, opset: int) -> None:
        self.seed = seed
        self.opset = opset
        self.random = random.Random(seed)
        self.values: list[Value] = []
        self.inputs: list[Value] = []
        self.initializers: list[onnx.TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.made: list[Value] = []
        self._count = 0

    def attempt(self, maker: Callable[[Growing], object]) -> None:
        """Let `maker` add a node; if it is rejected, everything that was created for it is removed."""
        lists: tuple[list[Any], ...] = (self.values, self.inputs, self.initializers, self.nodes, self.made)
        lengths = [len(one) for one in lists]
        try:
            maker(self)
        except Refused:
            for one, length in zip(lists, lengths):
                del one[length:]

    # -- choosing operands

    def flip(self, chance: float = 0.5) -> bool:
        return self.random.random() < chance

    def choice(self, options: Sequence[Any]) -> Any:
        return self.random.choice(options)

    def pick(
        self,
        dtypes: Sequence[str] = values.DTYPES,
        low: int = 0,
        high: int = 4,
        where: Callable[[Value], bool] | None = None,
        shape: Callable[[], tuple[int, ...]] | None = None,
    ) -> Value:
        """Return a value of one of the dtypes with a rank in `low`..`high`: an earlier one, or else a new one."""
        fitting = [
            v for v in self.values if v.dtype in dtypes and low <= len(v.shape) <= high and (where is None or where(v))
        ]
        if fitting and self.flip(0.75):
            return self.choice([*fitting, *fitting[-2:] * 2])
        known = tuple(d for d in values.DTYPES if d in dtypes)
        for _ in range(20):
            made = shape() if shape else values.any_shape(self.random, low, high)
            value = self.fresh(values.any_dtype(self.random, known), made)
            if where is None or where(value):
                return value
        raise Refused("no such value")

    def fresh(self, dtype: str, shape: tuple[int, ...]) -> Value:
        """Return a new input, or sometimes a constant, with any numbers."""
        if self.flip(0.35):
            return self.constant(values.numbers(self.random, dtype, shape))
        return self.input(values.numbers(self.random, dtype, shape), free=True)

    def input(self, array: np.ndarray, free: bool = False) -> Value:
        value = Value(self._name("x"), array, array, free)
        self.inputs.append(value)
        self.values.append(value)
        return value

    def constant(self, array: Any, dtype: str | None = None) -> Value:
        """Return a constant with these elements: an initializer or the output of a node."""
        array = np.asarray(array, None if dtype is None else values.numpy_dtype(dtype))
        value = Value(self._name("c"), array, array)
        tensor = helper.make_tensor(value.name, int(DType.of(array)), array.shape, array.tobytes(), raw=True)
        if self.flip(0.2) and self.opset >= 9:
            self.nodes.append(helper.make_node("Constant", [], [value.name], value=tensor))
        else:
            self.initializers.append(tensor)
        self.values.append(value)
        return value

    def parameter(self, array: Any, dtype: str = "int64") -> Value:
        """Return an operand such as axes or sizes: a constant, as in real models, or rarely an input."""
        made = np.asarray(array, values.numpy_dtype(dtype))
        return self.input(made) if self.flip(0.04) else self.constant(made)

    def broadcast(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return a shape that broadcasts with `shape`."""
        made = [size if self.flip(0.7) else 1 for size in shape[self.random.randint(0, len(shape)) :]]
        if made and self.flip(0.1):
            made = [self.choice((2, 3)) if size == 1 else size for size in made]
        return tuple(made) if self.flip(0.8) else tuple(shape)

    # -- adding nodes

    def schema(self, op: str) -> onnx.defs.OpSchema:
        try:
            found = onnx.defs.get_schema(op, self.opset, "")
        except onnx.defs.SchemaError as error:
            raise Refused(f"opset {self.opset} has no {op}") from error
        if found.deprecated:
            raise Refused(f"{op} is deprecated")
        return found

    def add(
        self,
        op: str,
        *inputs: Value | None,
        named: Mapping[str, Any] | None = None,
        results: int | None = None,
        **attributes: Any,
    ) -> list[Value]:
        """Add a node. Raises Refused.

        `named` are attributes or inputs, depending on the opset. Attributes that the opset lacks, and those that are
        None, are omitted.
        """
        schema = self.schema(op)
        operands: list[Value | None] = list(inputs)
        formal = [parameter.name for parameter in schema.inputs]
        for name, what in (named or {}).items():
            if name in schema.attributes:
                attributes[name] = what
            elif name in formal and what is not None:
                operands += [None] * (formal.index(name) + 1 - len(operands))
                operands[formal.index(name)] = what if isinstance(what, Value) else self.parameter(what)
        kept = {k: v for k, v in attributes.items() if k in schema.attributes and v is not None}
        outputs = [self._name("v") for _ in range(results or self._results(schema))]
        node = helper.make_node(op, [v.name if v else "" for v in operands], outputs)
        for name, what in kept.items():
            node.attribute.append(helper.make_attribute(name, what, attr_type=schema.attributes[name].type.value))
        return self.append(node, [v for v in operands if v])

    def append(self, node: onnx.NodeProto, operands: Sequence[Value]) -> list[Value]:
        """Add a node that exists already, with the values that it or its branches read. Raises Refused."""
        arrays = evaluate(node, {v.name: v.array for v in operands}, self.opset)
        same = all(v.near is v.array for v in operands)
        nears = arrays if same else evaluate(node, {v.name: v.near for v in operands}, self.opset)
        made = []
        for name, array, near in zip((o for o in node.output if o), arrays, nears, strict=True):
            if node.op_type not in EXACT:
                near = values.neighbour(self.random, near, sums=True)
            if array.size > LARGEST:
                raise Refused("large")
            if parted(array, near) > PARTS.get(str(array.dtype), 5e-2):
                raise Refused("badly conditioned")
            made.append(Value(name, array, near))
        self.nodes.append(node)
        self.values += made
        self.made += made
        return made

    def _results(self, schema: onnx.defs.OpSchema) -> int:
        """Return the number of outputs of a node: those that are required, and sometimes one more."""
        optional = onnx.defs.OpSchema.FormalParameterOption.Optional
        needed = sum(output.option != optional for output in schema.outputs)
        # Before opset 12, a Dropout's mask is all false in ONNX Runtime, and all true since.
        names = ("MaxPool", "LayerNormalization", *(["Dropout"] if self.opset >= 12 else []))
        more = schema.name in names and len(schema.outputs) > needed
        return needed + (more and self.flip(0.3))

    def _name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"


def evaluate(node: onnx.NodeProto, operands: Mapping[str, np.ndarray], opset: int) -> list[np.ndarray]:
    """Return what ONNX Runtime computes for one node. Raises Refused if it fails."""
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_tensor_value_info(n, int(DType.of(a)), a.shape) for n, a in operands.items()],
        [onnx.ValueInfoProto(name=name) for name in node.output if name],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    try:
        with Reference(model) as reference:
            results = reference.run(dict(operands))
    except GraphOptError as error:
        raise Refused(str(error)) from error
    arrays = [results[name] for name in node.output if name]
    if not all(isinstance(array, np.ndarray) for array in arrays):
        raise Refused("not a tensor")
    return arrays


def parted(array: np.ndarray, near: np.ndarray) -> float:
    """Return how far two correct results are apart, relative to the largest element; infinite if they are different."""
    if array.shape != near.shape:
        return float("inf")
    if not values.is_float(array):
        return 0.0 if np.array_equal(array, near) else float("inf")
    a, b = array.astype(np.float64), near.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    largest = float(np.abs(a[finite]).max())
    return float(np.abs(a[finite] - b[finite]).max()) / (largest or 1.0)
