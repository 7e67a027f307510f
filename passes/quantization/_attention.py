"""The part of com.microsoft's QAttention after its quantized product: attention of floats."""

from __future__ import annotations

import numpy as np

from graphopt.ir import Node, Value
from graphopt.rewriting.passes import Rewriter

_FILTER = -10000.0
_PAST, _MASK = 8, 5


def why_not_expanded(node: Node) -> str | None:
    """Return why a QAttention cannot be expanded; None if it can."""
    data, weight, mask = node.inputs[0], node.inputs[1], node.input(_MASK)
    if node.input(_PAST) is not None or len([value for value in node.outputs if value.name]) > 1:
        return "it keeps keys and values of earlier runs"
    if node.attr("do_rotary", 0):
        return "it rotates positions"
    if data is None or data.shape is None or len(data.shape) != 3:
        return "the rank of its data is not known"
    if weight is None or weight.shape is None or not isinstance(weight.shape[-1], int):
        return "the size of its weights is not known"
    batch, length, _ = data.shape
    if (mask is not None or node.attr("unidirectional", 0)) and not isinstance(length, int):
        return "it has a mask for an open length"
    if mask is not None and mask.shape not in ((batch,), (batch, length)):
        return "its mask has an uncommon shape"
    return None


def attention_of_floats(node: Node, joined: Value, mask: Value | None, rewriter: Rewriter) -> Value:
    """Return the result of `node` from queries, keys and values that are `joined` along the last axis.

    The mask has the lengths of the sequences, or a positive number for each position that is attended to.
    """
    weight, heads = node.inputs[1], node.attr("num_heads")
    assert weight is not None
    assert weight.shape is not None
    assert isinstance(weight.shape[-1], int)
    width = weight.shape[-1] // 3
    sizes = rewriter.constant(np.full(3, width, np.int64), f"{node.name}_sizes")
    parts = rewriter.op("Split", [joined, sizes], {"axis": 2}, n_outputs=3).outputs
    shape = rewriter.constant(np.array([0, 0, heads, width // heads], np.int64), f"{node.name}_heads")
    query, key, value = (
        rewriter.op("Transpose", [rewriter.op("Reshape", [part, shape]).output], {"perm": order}).output
        for part, order in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    factor = np.float32(node.attr("scale", 0.0) or (width // heads) ** -0.5)
    scores = rewriter.op("MatMul", [query, key]).output
    scores = rewriter.op("Mul", [scores, rewriter.constant(factor, f"{node.name}_scale")]).output
    scores = _masked(node, scores, mask, rewriter)
    shares = rewriter.op("Softmax", [scores], {"axis": -1}).output
    result = rewriter.op("MatMul", [shares, value]).output
    result = rewriter.op("Transpose", [result], {"perm": [0, 2, 1, 3]}).output
    whole = rewriter.constant(np.array([0, 0, width], np.int64), f"{node.name}_width")
    return rewriter.op("Reshape", [result, whole]).output


def _masked(node: Node, scores: Value, mask: Value | None, rewriter: Rewriter) -> Value:
    data = node.inputs[0]
    assert data is not None
    assert data.shape is not None
    length = data.shape[1]
    if mask is not None:
        seen = _seen(mask, length, rewriter)
        outside = np.float32(node.attr("mask_filter_value", _FILTER))
        zero = rewriter.constant(np.float32(0))
        bias = rewriter.op("Where", [seen, zero, rewriter.constant(outside, f"{node.name}_filter")]).output
        scores = rewriter.op("Add", [scores, bias]).output
    if node.attr("unidirectional", 0):
        assert isinstance(length, int)
        before = rewriter.constant(np.tri(length, dtype=bool)[None, None], f"{node.name}_before")
        lowest = rewriter.constant(np.float32(np.finfo(np.float32).min))
        scores = rewriter.op("Where", [before, scores, lowest]).output
    return scores


def _seen(mask: Value, length: object, rewriter: Rewriter) -> Value:
    """Return which positions are attended to, with axes for heads and queries."""
    assert isinstance(length, int)
    if mask.rank == 1:
        shape = rewriter.constant(np.array([-1, 1, 1, 1], np.int64))
        ends = rewriter.op("Reshape", [mask, shape]).output
        places = rewriter.constant(np.arange(length, dtype=np.int32), "positions")
        return rewriter.op("Less", [places, ends]).output
    shape = rewriter.constant(np.array([0, 1, 1, length], np.int64))
    wide = rewriter.op("Reshape", [mask, shape]).output
    return rewriter.op("Greater", [wide, rewriter.constant(np.int32(0))]).output
