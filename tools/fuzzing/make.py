"""The case of a seed: a model of two to twelve nodes at an opset, with inputs whose sizes may be open."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper

from graphopt.data.windows import windows_fit
from graphopt.errors import GraphOptError
from graphopt.ir import DType
from graphopt.ir.inferable import write_inferable_model
from graphopt.ir.read_proto import read_model
from graphopt.proof.oracle import Reference
from tools.fuzzing import layers, shaping
from tools.fuzzing.graph import Case, Growing, Value, parted
from tools.fuzzing.operators import MAKERS
from tools.fuzzing.values import words

assert layers
assert shaping  # importing it registers its generators
OPSETS = range(7, 26)
COMMON = frozenset(
    words(
        """
        Add Sub Mul Div Conv MatMul Gemm Reshape Transpose Concat Slice Gather Relu Clip Sigmoid Softmax
        ReduceMean Cast BatchNormalization MaxPool Unsqueeze Squeeze Shape Where Split
        """
    )
)
"""Operators that are drawn more often, because the patterns of passes consist of them."""
TRIES = 40
"""The number of rejected nodes after which a graph does not grow further."""
SLACK = 16
"""The tolerance of an output in multiples of the distance of two correct results."""


def make(seed: int) -> Case:
    """Return the case of a seed; the same on every machine with the same ONNX Runtime."""
    rng = random.Random(seed)
    opset = rng.choice(OPSETS)
    grown = Growing(seed, opset)
    wanted = rng.randint(2, 12)
    known = [op for op in sorted(MAKERS) if _has(op, opset)]
    weights = [4 if op in COMMON else 1 for op in known]
    for _ in range(TRIES + wanted):
        if sum(node.op_type != "Constant" for node in grown.nodes) >= wanted:
            break
        grown.attempt(MAKERS[rng.choices(known, weights)[0]])
    return Case(seed, _model(grown, rng), {v.name: v.array for v in grown.inputs}, _slack(grown))


INTEGER_PRODUCTS = frozenset({"MatMulInteger", "QLinearMatMul"})
"""Operators whose empty sums ONNX Runtime leaves uninitialized."""


def other_sizes(case: Case, count: int = 2) -> Iterator[dict[str, np.ndarray]]:
    """Yield further inputs of a model with open sizes, at other sizes that ONNX Runtime accepts."""
    positive = not INTEGER_PRODUCTS.isdisjoint(node.op_type for node in case.model.graph.node)
    rng = random.Random(case.seed + 1)
    symbols = sorted({d.dim_param for i in case.model.graph.input for d in i.type.tensor_type.shape.dim if d.dim_param})
    for _ in range(count if symbols else 0):
        sizes = {symbol: rng.choice((0, 1, 2, 3, 6, 9)) for symbol in symbols}
        if positive:
            sizes = {symbol: max(1, size) for symbol, size in sizes.items()}
        given = {}
        for info in case.model.graph.input:
            array = case.inputs[info.name]
            dims = info.type.tensor_type.shape.dim
            shape = tuple(sizes.get(d.dim_param, n) for d, n in zip(dims, array.shape))
            given[info.name] = np.resize(array, shape).astype(array.dtype)
        yield given


def fits(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> bool:
    """Return whether inputs of these sizes are valid for a model by ONNX's own shape inference.

    ONNX Runtime accepts more: it concatenates anything to a tensor without elements.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for info in fixed.graph.input:
        for dim, size in zip(info.type.tensor_type.shape.dim, inputs[info.name].shape):
            dim.dim_value = size
    read = read_model(fixed)
    try:
        onnx.shape_inference.infer_shapes(write_inferable_model(read), strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return False
    return windows_fit(read, inputs)


def _has(op: str, opset: int) -> bool:
    try:
        return not onnx.defs.get_schema(op, opset, "").deprecated
    except onnx.defs.SchemaError:
        return False


def _results(grown: Growing) -> list[Value]:
    """Return the outputs: values that no node reads, and rarely others."""
    read = {name for node in grown.nodes for name in node.input}
    read |= {n for node in grown.nodes for a in node.attribute for inner in a.g.node for n in inner.input}
    return [v for v in grown.made if v.name not in read or grown.flip(0.1)]


def _slack(grown: Growing) -> dict[str, float]:
    return {v.name: SLACK * parted(v.array, v.near) for v in grown.made}


def _model(grown: Growing, rng: random.Random) -> onnx.ModelProto:
    open_sizes = rng.random() < 0.5
    symbols: dict[int, str] = {}
    read = {name for node in grown.nodes for name in node.input}
    infos = []
    for value in grown.inputs:
        dims: list[int | str] = list(value.shape)
        for axis, size in enumerate(value.shape):
            if open_sizes and value.free and rng.random() < 0.4:
                own = rng.random() < 0.2
                dims[axis] = f"{value.name}_{axis}" if own else symbols.setdefault(size, f"n{len(symbols)}")
        infos.append(helper.make_tensor_value_info(value.name, int(DType.of(value.array)), dims))
    outputs = [
        helper.make_tensor_value_info(v.name, int(DType.of(v.array)), [None] * len(v.shape)) for v in _results(grown)
    ]
    graph = helper.make_graph(
        grown.nodes, f"seed_{grown.seed}", infos, outputs, [t for t in grown.initializers if t.name in read]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", grown.opset)], ir_version=10)


def expected(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Return what ONNX Runtime computes; None if it rejects the model or these inputs."""
    try:
        with Reference(model) as reference:
            results: dict[str, np.ndarray] = reference.run(inputs)
    except GraphOptError:
        return None
    return results
