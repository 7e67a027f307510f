"""Replacement of a product with a one-hot matrix by the lookup that it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import DType, Node, Value
from graphopt.passes.matching.match import below_opset
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.pattern import Capture, Pattern, constant, op

_ONE_HOT = Pattern(
    op.MatMul(op.Cast(op.Equal(Capture("index"), constant("numbers"))), Capture("table")),
    shared=True,  # the one-hot matrix may have other consumers, which keep it
    near=3,
)


@dataclass(frozen=True)
class _Match:
    product: Node
    index: Value
    table: np.ndarray
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class GatherOneHot(RewritePass):
    """Replace MatMul(Cast(Equal(x, [0, 1 ... K-1])), table) by a Gather of the table's rows.

    JAX's one_hot is exported in this form. An index that is not a row still gives zeros: the table gets a last row of
    zeros, to which every index out of range is clipped (-1 counts from the end).
    """

    name: ClassVar[str] = "gather-one-hot"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("MatMul",)

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        found = _ONE_HOT.match(node)
        if isinstance(found, Miss):
            return found
        if (old := below_opset(context, 13)) is not None:
            return old
        index, numbers, table = found["index"], found["numbers"].constant, found["table"].constant
        if table is None or len(table.shape) != 2 or not table.dtype.is_float:
            return Miss("the table is not a constant matrix of floats")
        rows = table.numpy()
        if not np.isfinite(rows).all():
            return Miss("the table holds infinities or NaN, which reach every row")
        if numbers is None or not _counts(numbers.numpy(), rows.shape[0]):
            return Miss("nothing is compared with the numbers of the table's rows")
        if index.dtype not in (DType.INT32, DType.INT64):
            return Miss("the index is not an int32 or int64")
        if index.shape is None or len(index.shape) < len(numbers.shape) or index.shape[-1] != 1:
            return Miss("the index is not known to have a last axis of one element")
        return _Match(node, index, rows, found.nodes)

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        product, rows = match.product, match.table
        kind = match.index.dtype
        assert kind is not None
        zeros = np.zeros((1, rows.shape[1]), rows.dtype)
        table = rewriter.constant(np.concatenate([rows, zeros]), f"{product.name or 'one_hot'}_table")
        axes = rewriter.constant(np.array([-1], np.int64), "axes")
        flat = rewriter.op("Squeeze", [match.index, axes], origin=match.nodes, before=product).output
        low, high = (rewriter.constant(np.array(v, kind.numpy), "bound") for v in (-1, rows.shape[0]))
        place = rewriter.op("Clip", [flat, low, high], origin=match.nodes, before=product).output
        new = rewriter.op(
            "Gather",
            [table, place],
            {"axis": 0},
            types=[product.output.type],
            origin=match.nodes,
            name=product.name,
            before=product,
        )
        rewriter.replace(product, [new.output])


def _counts(numbers: np.ndarray, rows: int) -> bool:
    """Return whether an array is 0, 1 ... rows - 1 along its last axis, and all other axes have size 1."""
    return (
        numbers.ndim > 0
        and numbers.size == rows == numbers.shape[-1]
        and np.array_equal(numbers.ravel(), np.arange(rows))
    )
