"""The places of a node at which floats of one type can become those of another."""

from __future__ import annotations

from collections.abc import Set

from graphopt.ir import DType, Node
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
