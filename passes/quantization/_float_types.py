"""What passes that change the types of floats share: the places of a node that can change, and products of 16 bits."""

from __future__ import annotations

from collections.abc import Iterator, Set

from graphopt.ir import DType, Graph, Node, Value
from graphopt.ir.verify import find_schema


def changeable(node: Node, opset: int, old: Set[DType], new: str) -> tuple[list[int], list[int]] | None:
    """Return the places of a node's inputs and outputs that can change their type together; None if there are none.

    These are those of the types `old` whose type is one of the operator's type variables, all of which admit `new`
    (ONNX's name, as in "tensor(float16)").
    """
    schema = find_schema(node.op_type, "", opset) if node.domain == "" else None
    if schema is None or any(True for _ in node.subgraphs) or not all(value.name for value in node.outputs):
        return None
    admit = {c.type_param_str for c in schema.type_constraints if new in c.allowed_type_strs}
    inputs = [(i, schema.inputs[min(i, len(schema.inputs) - 1)].type_str) for i in range(len(node.inputs))]
    outputs = [(i, schema.outputs[min(i, len(schema.outputs) - 1)].type_str) for i in range(len(node.outputs))]
    taken = [(i, t) for i, t in inputs if (v := node.inputs[i]) is not None and v.dtype in old]
    given = [(i, t) for i, t in outputs if node.outputs[i].dtype in old]
    variables = {t for _, t in taken if not t.startswith("tensor(")}
    if not given or not variables <= admit or not {t for _, t in given} <= variables:
        return None
    return [i for i, t in taken if t in variables], [i for i, _ in given]


FEW_CHANNELS = 16
"""The number of input channels below which a convolution is computed in float32: they would not fill a vector."""


def rounded_data(graph: Graph) -> Iterator[Value]:
    """Yield the bfloat16 values that products with constants of the same type read."""
    for node in graph.nodes:
        data = multiplied_data(node)
        if data is not None and data.dtype is DType.BFLOAT16:
            yield data


def multiplied_data(node: Node) -> Value | None:
    """Return the data of a product with constant weights for which there are kernels of 16 bits; None if it is none."""
    if node.op not in ("Conv", "Gemm", "MatMul"):
        return None
    data, weight = node.inputs[:2]
    if data is None or weight is None or data.constant is not None or not _is_constant(weight):
        return None
    shape = weight.shape
    if shape is None or node.attr("transA", 0):
        return None
    if node.op != "Conv":
        return data if len(shape) == 2 else None
    few = len(shape) < 3 or not isinstance(shape[1], int) or shape[1] < FEW_CHANNELS
    return None if few or node.attr("group", 1) != 1 else data


def _is_constant(value: Value) -> bool:
    """Return whether a value is a constant, or cast from one."""
    cast = value.producer
    source = cast.input(0) if cast is not None and cast.op == "Cast" else value
    return source is not None and source.constant is not None
