"""Merging of parallel matmuls of one input with several constant weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Graph, Node, TensorType, Value
from graphopt.passes.matching.match import below_opset
from graphopt.passes.matching.weights import NOT_CONSTANT, Weights, side_by_side, weights_of
from graphopt.rewriting.passes import Fidelity, Miss, Pass, PassContext, Rewriter


@dataclass(frozen=True)
class _Branch:
    """One of the matmuls: its weight [K, N] (or [N, K] for a Gemm with transB), and the bias Add after it."""

    product: Node
    weights: Weights
    bias: Value | None
    root: Node

    @property
    def rows(self) -> int:
        """K: the number of columns of the shared input."""
        return self.weights.stored.shape[1 if self.product.attr("transB", 0) else 0]

    @property
    def columns(self) -> int:
        """N: the branch's share of the merged result."""
        return self.weights.stored.shape[0 if self.product.attr("transB", 0) else 1]


@dataclass(frozen=True)
class MergeParallelMatmuls(Pass):
    """Merge matmuls that share an input and have constant weights (Q, K, V) into one matmul and a Split.

    These are MatMul with its bias Add, or Gemm with a bias of one number per column. Weights may be stored as integers
    with a scale per column. Weights with other uses are left alone, so that no second copy is stored.
    """

    name: ClassVar[str] = "merge-parallel-matmuls"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT

    def run(self, graph: Graph, context: PassContext) -> None:
        for inner in list(graph.all_graphs()):
            rewriter = context.rewriter(inner)
            for branches in _groups(inner, context):
                if context.allow(branches[0].product):
                    _merge(branches, rewriter)
                    context.count("merged products", len(branches))


def _groups(graph: Graph, context: PassContext) -> Iterator[list[_Branch]]:
    """Yield lists of at least two matmuls that can be merged, in graph order; each matmul is in at most one."""
    siblings: dict[tuple[Value, str], list[Node]] = {}
    for node in graph.nodes:
        if node.op in ("MatMul", "Gemm"):
            data = node.inputs[0]
            assert data is not None
            siblings.setdefault((data, node.op), []).append(node)
    for nodes in siblings.values():
        if len(nodes) > 1:
            yield from _mergeable(nodes, context)


def _mergeable(nodes: list[Node], context: PassContext) -> Iterator[list[_Branch]]:
    groups: dict[tuple[object, ...], list[_Branch]] = {}
    for node in nodes:
        branch = _branch(node, context)
        if isinstance(branch, Miss):
            context.miss(branch.reason, node)
            continue
        kept = tuple((name, node.attr(name, default)) for name, default in _GEMM_DEFAULTS)
        groups.setdefault((*branch.weights.kind, branch.rows, kept), []).append(branch)
    yield from (branches for branches in groups.values() if len(branches) > 1)


_GEMM_DEFAULTS = (("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 0))


def _branch(product: Node, context: PassContext) -> _Branch | Miss:
    old = below_opset(context)
    if old is not None:
        return old
    factor = product.inputs[1]
    assert factor is not None
    weights = weights_of(factor)
    if isinstance(weights, Miss):
        return weights
    if weights.node is not None and product.attr("transB", 0):
        return NOT_CONSTANT
    data = product.inputs[0]
    assert data is not None
    if data.rank is None or data.rank < 2:
        return Miss("the shared input is not known to have rows")
    columns = _Branch(product, weights, None, product).columns
    if product.op == "Gemm":
        bias = product.input(2)
        if bias is not None and not _is_row(bias, columns):
            return Miss("the bias is not a constant with one number a column")
        return _Branch(product, weights, bias, product)
    add = product.output.sole_user
    if add is not None and add.op == "Add":
        bias = add.inputs[1] if add.inputs[0] is product.output else add.inputs[0]
        if bias is not None and _is_row(bias, columns):
            return _Branch(product, weights, bias, add)
    return _Branch(product, weights, None, product)


def _is_row(value: Value, columns: int) -> bool:
    return value.constant is not None and value.constant.shape in ((columns,), (1, columns))


def _merge(branches: list[_Branch], rewriter: Rewriter) -> None:
    first = branches[0]
    product, data = first.product, first.product.inputs[0]
    dtype = first.weights.value.dtype or first.root.output.dtype
    assert dtype is not None
    assert data is not None
    assert data.shape is not None
    before = first.product
    axis = 0 if product.attr("transB", 0) else 1
    weight = side_by_side([b.weights for b in branches], axis, rewriter, before)
    bias = _merged_bias(branches, dtype.numpy, rewriter)
    origin = [node for b in branches for node in dict.fromkeys((b.product, b.root))]
    rows = data.shape[1:] if product.attr("transA", 0) else data.shape[:-1]
    kind = TensorType(dtype, (*rows, sum(b.columns for b in branches)))
    gemm = product.op == "Gemm"
    inputs = [data, weight, bias] if gemm and bias is not None else [data, weight]
    merged = rewriter.op(
        product.op_type, inputs, dict(product.attributes) or None, types=[kind], origin=origin, before=before
    ).output
    if bias is not None and not gemm:
        merged = rewriter.op("Add", [merged, bias], types=[kind], origin=origin, before=before).output
    _split(merged, branches, origin, rewriter)


def _split(merged: Value, branches: list[_Branch], origin: list[Node], rewriter: Rewriter) -> None:
    """Replace each branch by its columns of the merged product."""
    before = branches[0].product
    sizes = rewriter.constant(np.array([b.columns for b in branches], np.int64), "columns")
    types = [branch.root.output.type for branch in branches]
    split = rewriter.op(
        "Split", [merged, sizes], {"axis": -1}, types=types, n_outputs=len(branches), origin=origin, before=before
    )
    for branch, part in zip(branches, split.outputs):
        rewriter.replace(branch.root, [part])


def _merged_bias(branches: list[_Branch], dtype: np.dtype, rewriter: Rewriter) -> Value | None:
    """Return the concatenated biases, with zeros for a branch without one; None if no branch has one."""
    if all(branch.bias is None for branch in branches):
        return None
    parts = []
    for branch in branches:
        constant = None if branch.bias is None else branch.bias.constant
        parts.append(np.zeros(branch.columns, dtype) if constant is None else constant.numpy().reshape(-1))
    return rewriter.constant(np.concatenate(parts), "merged_bias")
