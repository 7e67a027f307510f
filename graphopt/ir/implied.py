"""Types that files omit, because those of a node's inputs imply them: the results of quantizing and dequantizing."""

from __future__ import annotations

from collections.abc import Iterable

from . import edit
from .graph import Graph
from .node import Node, Value
from .types import DType, TensorType, ValueType

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def implied_type(node: Node) -> ValueType:
    """Return the type of the result of a QuantizeLinear or DequantizeLinear whose inputs tell it; else None.

    Pairs of them double the number of values of a model, so that files do not repeat what follows from one look.
    """
    if node.op not in (_QUANTIZE, _DEQUANTIZE) or len(node.inputs) < 2:
        return None
    data, zero = node.inputs[0], node.input(2)
    if data is None or data.shape is None:
        return None
    dtype: DType | None
    if "output_dtype" in node.attributes and node.attr("output_dtype"):
        dtype = DType(node.attr("output_dtype"))
    elif node.op == _DEQUANTIZE:
        dtype = None if node.inputs[1] is None else node.inputs[1].dtype
    else:
        dtype = DType.UINT8 if zero is None else zero.dtype
    return None if dtype is None else TensorType(dtype, data.shape)


def restore_types(graphs: Iterable[Graph]) -> None:
    """Give results without a type the one that is implied. Outer graphs come first, and nodes are in order."""
    for graph in graphs:
        for node in graph.nodes:
            if node.outputs and node.outputs[0].type is None:
                type_ = implied_type(node)
                if type_ is not None:
                    edit.set_type(node.outputs[0], type_)


def is_implied(value: Value) -> bool:
    """Return whether a file need not state the type of a value."""
    return value.producer is not None and value.type is not None and implied_type(value.producer) == value.type
