"""Constant right factors of matmuls, plain or converted from small integers, and their concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir import DType, Node, Tensor, Value
from graphopt.passes.matching.match import produced_by
from graphopt.rewriting.passes import Miss, Rewriter

SHARED = Miss("the weights are used elsewhere too")
NOT_CONSTANT = Miss("the weights are not constant")


@dataclass(frozen=True)
class Weights:
    """A constant [K, N] matrix of floats: `stored` itself, or integers that `node` converts to floats by column.

    `node` is a `Mul` of a cast matrix with scales, or a `DequantizeLinear`.
    """

    value: Value
    stored: Tensor
    node: Node | None = None
    scales: Tensor | None = None
    zeros: Tensor | None = None

    @property
    def kind(self) -> tuple[object, ...]:
        """Return what must be equal in weights that are concatenated."""
        scaling = None if self.node is None or self.scales is None else (self.node.op, self.scales.dtype)
        return self.stored.dtype, scaling, self.zeros is not None


def weights_of(value: Value) -> Weights | Miss:
    """Return the weights in `value`, or why they cannot be concatenated with others."""
    if value.constant is None:
        return _scaled(value)
    tensor = value.constant
    if len(tensor.shape) != 2 or not tensor.dtype.is_float:
        return Miss("the weights are not a matrix of floats")
    return SHARED if len(value.uses) > 1 or value.is_graph_output else Weights(value, tensor)


def _scaled(value: Value) -> Weights | Miss:
    """Match weights that are integers times a scale for each column."""
    node = produced_by(value, "Mul", "DequantizeLinear")
    if node is None:
        return NOT_CONSTANT
    found = _product(node) if node.op == "Mul" else _dequantized(node)
    if found is None:
        return NOT_CONSTANT
    columns = found.stored.shape[1] if len(found.stored.shape) == 2 else -1
    for tensor in (found.scales, found.zeros):
        if tensor is not None and tensor.shape not in ((), (1,), (columns,), (1, columns)):
            return Miss("the weights are not scaled column by column")
    values = (value, *node.inputs, *(source for v in node.inputs if (source := _cast_source(v)) is not None))
    # Scales may be shared: one more number per column is not a second copy of the weights.
    shared = any(v is not None and v.dtype is found.stored.dtype and len(v.uses) > 1 for v in values)
    return SHARED if shared or value.sole_user is None else found


def _cast_source(value: Value | None) -> Value | None:
    cast = produced_by(value, "Cast")
    return None if cast is None else cast.inputs[0]


def _product(node: Node) -> Weights | None:
    for first, second in ((0, 1), (1, 0)):
        cast, scales = produced_by(node.inputs[first], "Cast"), node.inputs[second]
        source = None if cast is None else cast.inputs[0]
        if source is None or scales is None or source.constant is None or scales.constant is None:
            continue
        if source.constant.dtype.is_integer and len(source.constant.shape) == 2:
            return Weights(node.output, source.constant, node, scales.constant)
    return None


def _dequantized(node: Node) -> Weights | None:
    source, scales, zeros = node.inputs[0], node.inputs[1], node.input(2)
    if source is None or scales is None or source.constant is None or scales.constant is None:
        return None
    if (zeros is not None and zeros.constant is None) or node.attr("block_size", 0) or node.attr("output_dtype", 0):
        return None
    if scales.constant.shape not in ((), (1,)) and node.attr("axis", 1) not in (1, -1):
        return None
    return Weights(node.output, source.constant, node, scales.constant, None if zeros is None else zeros.constant)


def side_by_side(weights: Sequence[Weights], axis: int, rewriter: Rewriter, before: Node) -> Value:
    """Return one value with the columns of all `weights` (of one kind), which are along `axis` of what is stored."""
    first = weights[0]
    stored = np.concatenate([w.stored.numpy() for w in weights], axis=axis)
    merged = rewriter.constant(stored, f"{first.value.name}_merged")
    if first.node is None or first.scales is None:
        return merged
    origin = [w.node for w in weights if w.node is not None]
    columns = [w.stored.shape[1] for w in weights]
    scales = rewriter.constant(_row([w.scales for w in weights], columns), "scales")
    if first.node.op == "Mul":
        to = {"to": int(DType.of(first.scales.dtype.numpy))}
        floats = rewriter.op("Cast", [merged], to, origin=origin, before=before).output
        return rewriter.op("Mul", [floats, scales], origin=origin, before=before).output
    inputs = [merged, scales]
    if first.zeros is not None:
        inputs.append(rewriter.constant(_row([w.zeros for w in weights], columns), "zeros"))
    return rewriter.op("DequantizeLinear", inputs, {"axis": 1}, origin=origin, before=before).output


def _row(parts: Sequence[Tensor | None], columns: Sequence[int]) -> np.ndarray:
    """Return one number per column, from parts that have one for all of their columns, or one each."""
    rows = [np.broadcast_to(p.numpy().reshape(-1), (n,)) for p, n in zip(parts, columns) if p is not None]
    return np.concatenate(rows)
