"""A product with a one-hot matrix as the look-up that it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import DType, Node, Value
from graphopt.passes.matching.match import NOTHING, below_opset, operands, produced_by
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Match:
    product: Node
    index: Value
    table: np.ndarray
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class GatherOneHot(RewritePass):
    """Replace MatMul(Cast(Equal(x, [0, 1 ... K-1])), table) by a Gather of the table's rows.

    As JAX's one_hot is exported. An index that is no row gives zeros, as it did: the table gets a last row of zeros,
    which every index outside is clipped to (-1 counts from the end).
    """

    name: ClassVar[str] = "gather-one-hot"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("MatMul",)

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        cast = produced_by(node.inputs[0], "Cast")
        equal = None if cast is None else produced_by(cast.inputs[0], "Equal")
        if cast is None or equal is None:
            return NOTHING
        if (old := below_opset(context, 13)) is not None:
            return old
        table = node.inputs[1].constant if node.inputs[1] is not None else None
        if table is None or len(table.shape) != 2 or not table.dtype.is_float:
            return Miss("the table is not a constant matrix of floats")
        rows = table.numpy()
        if not np.isfinite(rows).all():
            return Miss("the table holds infinities or NaN, which reach every row")
        for index, numbers in operands(equal):
            if numbers.constant is None or not _counts(numbers.constant.numpy(), rows.shape[0]):
                continue
            axes = len(numbers.constant.shape)
            if index.dtype not in (DType.INT32, DType.INT64):
                return Miss("the index is not an int32 or int64")
            if index.shape is None or len(index.shape) < axes or index.shape[-1] != 1:
                return Miss("the index is not known to have a last axis of one element")
            return _Match(node, index, rows, (equal, cast, node))
        return Miss("nothing is compared with the numbers of the table's rows")

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
    """Whether an array is 0, 1 ... rows - 1 along its last axis, and has no other."""
    return (
        numbers.ndim > 0
        and numbers.size == rows == numbers.shape[-1]
        and np.array_equal(numbers.ravel(), np.arange(rows))
    )
