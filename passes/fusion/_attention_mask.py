"""The masks of attention scores, as exporters write them and as the operator Attention takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir import DType, Node, Shape, Value
from graphopt.passes.matching.match import broadcasts_into, operands, produced_by, same_dim
from graphopt.rewriting.passes import Miss, Rewriter
from graphopt.rewriting.polynomial import scaled
from graphopt.rewriting.values import fits_beside, number

_MOST = 2
"""The limit on masks of one score: exporters write one for causality and one for padding."""


@dataclass(frozen=True)
class Mask:
    """A term that is added to the scores: `added` itself, or `fill` under a boolean condition `where`.

    With a condition, scores are kept where it is true (where it is false, if `inverted`) and become `fill` elsewhere.
    """

    added: Value | None = None
    where: Value | None = None
    inverted: bool = False
    fill: float = 0.0

    @property
    def value(self) -> Value:
        """The mask in the graph: numbers, or a condition."""
        value = self.added if self.added is not None else self.where
        assert value is not None
        return value

    @property
    def forbids(self) -> bool:
        """Whether it replaces scores by -inf."""
        return self.where is not None and bool(np.isneginf(self.fill))


def masked(argument: Value) -> tuple[tuple[Mask, ...], Value, tuple[Node, ...]]:
    """Return the masks on the scores, the scores before them, and the masking nodes."""
    masks: list[Mask] = []
    nodes: list[Node] = []
    value = argument
    while len(masks) < _MOST:
        found = _outer_mask(value, _MOST - len(masks) - 1)
        if found is None:
            break
        mask, value, node = found
        masks.append(mask)
        nodes.append(node)
    return tuple(masks), value, tuple(nodes)


def _outer_mask(argument: Value, more: int) -> tuple[Mask, Value, Node] | None:
    """Return the last mask on scores that may have `more` masks under it."""
    node = produced_by(argument, "Add", "Where")
    if node is None:
        return None
    if node.op == "Add":
        for data, mask in operands(node):
            if _leads_to_scores(data, more):
                return Mask(added=mask), data, node
        return None
    condition, kept, other = node.inputs[:3]
    for scores, fill, inverted in ((kept, other, False), (other, kept, True)):
        amount = number(fill)
        if condition is None or scores is None or fill is None or amount is None:
            continue
        if fits_beside(fill, scores) and _leads_to_scores(scores, more):
            return Mask(where=condition, inverted=inverted, fill=amount), scores, node
    return None


def _leads_to_scores(value: Value, masks: int) -> bool:
    if leads_to_product(value):
        return True
    node = produced_by(value, "Add", "Where") if masks else None
    return node is not None and any(v is not None and leads_to_product(v) for v in node.inputs)


def leads_to_product(value: Value) -> bool:
    """Return whether `value` is a matmul, apart from a factor."""
    source = scaled(value)[-1][0]
    if produced_by(source, "MatMul") is not None:
        return True
    node = produced_by(source, "Div", "Mul")
    return node is not None and any(produced_by(v, "MatMul") is not None for v in node.inputs)


def leaves_empty_rows(masks: Sequence[Mask]) -> bool:
    """Return whether masks that replace scores by -inf may do so for an entire row, as far as one can know."""
    forbidding = [mask for mask in masks if mask.forbids]
    if len(forbidding) != 1:
        return bool(forbidding)
    constant = forbidding[0].value.constant
    if constant is None:
        return True
    kept = constant.numpy() != forbidding[0].inverted
    return not kept.any(axis=-1).all()


def masks_fit(masks: Sequence[Mask], queries: Value, matrix: Shape) -> Miss | None:
    """Return why masks do not fit an attention matrix of the shape `matrix`, or None."""
    for mask in masks:
        shape = mask.value.shape
        if shape is None or len(shape) == 0:
            return Miss("the shape of the mask is not known")
        if not broadcasts_into(shape, matrix):
            return Miss("the mask is not known to fit the attention matrix")
        if mask.added is not None and mask.added.dtype is not queries.dtype:
            return Miss("the mask has another type than the queries")
        if mask.where is not None and not _absorbs(mask.fill, queries):
            return Miss("what the mask puts in place of a score is not low enough")
    # Attention pads a last axis that is too short for a mask, instead of broadcasting it.
    if not any(mask.value.shape is not None and same_dim(mask.value.shape[-1], matrix[-1]) for mask in masks):
        return Miss("the mask is not known to have a column for each key")
    return None


def _absorbs(fill: float, value: Value) -> bool:
    """Return whether adding `fill` to a score gives `fill` up to rounding, so that adding can replace selecting."""
    if np.isneginf(fill):
        return True
    spacing = {DType.FLOAT: 2.0**-23, DType.FLOAT16: 2.0**-10, DType.BFLOAT16: 2.0**-7, DType.DOUBLE: 2.0**-52}
    return fill < 0 and -fill * spacing.get(value.dtype or DType.FLOAT, 0.0) >= 32


def mask_input(masks: Sequence[Mask], queries: Value, rewriter: Rewriter, before: Node) -> Value:
    """Return the masks in Attention's form: boolean for one that fills with -inf, else one number to be added."""
    if len(masks) == 1 and masks[0].forbids:
        value = masks[0].value
        if masks[0].inverted:
            value = rewriter.op("Not", [value], before=before).output
    else:
        parts = [_added(mask, queries, rewriter, before) for mask in masks]
        value = parts[0] if len(parts) == 1 else rewriter.op("Add", parts, before=before).output
    rows = queries.shape[-2] if queries.shape is not None else None
    shapes = [mask.value.shape or () for mask in masks]
    has_rows = any(len(shape) > 1 and same_dim(shape[-2], rows) for shape in shapes)
    # Runtimes need at least a matrix; the batch of 3-axis data is axis 0 of 4, before its only head.
    rank = max(len(shape) for shape in shapes)
    new_axis = 0 if rank == 1 else 1 if queries.rank == 3 and rank == 3 else None
    if new_axis is not None:
        axes = rewriter.constant(np.array([new_axis], np.int64), "axes")
        value = rewriter.op("Unsqueeze", [value, axes], before=before).output
    return value if has_rows else _with_rows(value, queries, rewriter, before)


def _added(mask: Mask, queries: Value, rewriter: Rewriter, before: Node) -> Value:
    """A mask as numbers to be added to the scores."""
    if mask.added is not None:
        return mask.added
    assert queries.dtype is not None
    kept, fill = (rewriter.constant(np.array(a, queries.dtype.numpy)) for a in (0.0, mask.fill))
    branches = (fill, kept) if mask.inverted else (kept, fill)
    return rewriter.op("Where", [mask.value, *branches], before=before).output


def _with_rows(value: Value, queries: Value, rewriter: Rewriter, before: Node) -> Value:
    """Return the mask with a row for each query: the operator broadcasts, but ONNX Runtime needs explicit rows."""
    assert queries.shape is not None
    rows = queries.shape[-2]
    if isinstance(rows, int):
        matrix = rewriter.constant(np.array([rows, 1], np.int64), "rows")
    else:
        # Taken from the mask if possible, so that layers that share a mask share this arithmetic too.
        own = value.shape is not None and same_dim(value.shape[-1], rows)
        source, axis = (value, {"start": -1}) if own else (queries, {"start": -2, "end": -1})
        count = rewriter.op("Shape", [source], axis, before=before).output
        one = rewriter.constant(np.array([1], np.int64), "one")
        matrix = rewriter.op("Concat", [count, one], {"axis": 0}, before=before).output
    return rewriter.op("Expand", [value, matrix], before=before).output
