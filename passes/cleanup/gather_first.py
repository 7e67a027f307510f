"""Lookup of single rows before a computation, instead of computing a whole table at each run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Node, Value
from graphopt.ir.facts import Kind, Placement, operators
from graphopt.passes.matching.facts import producer_of
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter

# Operators that give an element the same bits wherever it is.
_ELEMENTWISE = operators(Kind.COPY, Kind.UNARY, Kind.BROADCAST, placement=Placement.ANY)
_DEEPEST = 8  # operators between the weights and the lookup


@dataclass(frozen=True)
class _Found:
    node: Node
    table: Node
    gathered: tuple[bool, ...]  # which operands of the table have separate rows


@dataclass(frozen=True)
class GatherFirst(RewritePass):
    """Look up the rows of a weight before computing with them: Gather(Cast(w) * s) is Cast(Gather(w)) * Gather(s).

    This is for embeddings that are stored in a small type and scaled back. They stay small, where fold-constants would
    enlarge them, and a run computes only the rows that it needs.
    """

    name: ClassVar[str] = "gather-first"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    ops: ClassVar[tuple[str, ...]] = ("Gather",)

    def match(self, node: Node, context: PassContext) -> _Found | Miss:
        data, indices = node.input(0), node.input(1)
        table = producer_of(data, *_ELEMENTWISE)
        if table is None or data is None or data.shape is None or node.attr("axis", 0) not in (0, -len(data.shape)):
            return Miss("")
        if not _is_weight(data):
            return Miss("")
        if data.sole_user is not node:
            return Miss("the table is used elsewhere too")
        if indices is None or not indices.rank:
            return Miss("the rank of the indices is not known, or they are a single index")
        gathered = tuple(_has_rows(value, data) for value in table.inputs)
        return _Found(node, table, gathered) if any(gathered) else Miss("")

    def rewrite(self, match: _Found, rewriter: Rewriter) -> None:
        node, table = match.node, match.table
        indices = node.inputs[1]
        operands: list[Value | None] = []
        for value, gathered in zip(table.inputs, match.gathered, strict=True):
            if gathered:
                operands.append(rewriter.op("Gather", [value, indices], {"axis": 0}, origin=(node,)).output)
            else:
                operands.append(value)
        result = rewriter.op(table.op_type, operands, table.attributes, types=[node.output.type], origin=(table, node))
        rewriter.replace(node, [result.output])


def _has_rows(value: Value | None, data: Value) -> bool:
    """Return whether an operand has a row of its own for each row of the result."""
    assert data.shape is not None
    if value is None or value.shape is None or len(value.shape) < len(data.shape):
        return False
    return value.shape[0] != 1


def _is_weight(data: Value) -> bool:
    """Return whether `data` is computed from constants alone, by few elementwise operators."""
    nodes = [data]
    for _ in range(_DEEPEST):
        if not nodes:
            return True
        value = nodes.pop()
        node = producer_of(value, *_ELEMENTWISE)
        if node is None or any(operand is None or operand.shape is None for operand in node.inputs):
            return False
        nodes += [operand for operand in node.inputs if operand is not None and operand.constant is None]
    return not nodes
