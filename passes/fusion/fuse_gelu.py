"""GELU, spelled out with Erf or Tanh, as the operator Gelu."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Node, Value
from graphopt.passes.matching.match import ESCAPES, NOTHING, below_opset, close, escapes, produced_by
from graphopt.passes.matching.polynomial import Polynomial, equals, expression, follow, scaled
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter

_OUTER: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}  # x/2 + x*t/2
_CUBIC = 0.044715


@dataclass(frozen=True)
class _Match:
    root: Node
    data: Value
    approximate: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class FuseGelu(RewritePass):
    """Recognize x/2 * (1 + erf(x / sqrt 2)), and its tanh approximation, in any order of factors, as Gelu."""

    name: ClassVar[str] = "fuse-gelu"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Erf", "Tanh")

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        inner = _erf_argument(node) if node.op == "Erf" else _tanh_argument(node)
        if inner is None:
            return Miss("the argument of Erf is not x / sqrt(2)") if node.op == "Erf" else NOTHING
        data, nodes = inner
        if (old := below_opset(context, 20)) is not None:
            return old
        if node.output.sole_user is None:
            return Miss(ESCAPES)
        found = follow(node.output, (data, node.output), _OUTER, data.dtype)
        if found is None:
            return Miss(f"what follows the {node.op} is not x/2 * (1 + result)")
        root, behind = found
        nodes = (*nodes, node, *behind)
        if escapes(nodes, root):
            return Miss(ESCAPES)
        return _Match(root, data, "none" if node.op == "Erf" else "tanh", nodes)

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        new = rewriter.op(
            "Gelu",
            [match.data],
            {"approximate": match.approximate},
            types=[match.root.output.type],
            origin=match.nodes,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])


def _erf_argument(erf: Node) -> tuple[Value, tuple[Node, ...]] | None:
    """The x of erf(x / sqrt 2), and the nodes that scale it."""
    argument = erf.inputs[0]
    assert argument is not None
    for source, factor, nodes in scaled(argument):
        if close(factor, math.sqrt(0.5), source.dtype):
            return source, nodes
    return None


def _tanh_argument(tanh: Node) -> tuple[Value, tuple[Node, ...]] | None:
    """The x of tanh(sqrt(2/pi) * (x + 0.044715 x^3)), and the nodes of the polynomial."""
    argument = tanh.inputs[0]
    assert argument is not None
    factor = math.sqrt(2 / math.pi)
    target: Polynomial = {(1,): factor, (3,): factor * _CUBIC}
    for source in _repeated(argument):
        found = expression(argument, (source,))
        if found is not None and equals(found.polynomial, target, source.dtype):
            return source, found.nodes
    return None


def _repeated(argument: Value) -> list[Value]:
    """The values that the arithmetic behind `argument` uses more than once: what it may be a cubic of."""
    queue, uses = [argument], Counter[Value]()
    for value in queue:
        node = produced_by(value, "Mul", "Add", "Div", "Pow")
        if node is None or len(queue) > 16:
            continue
        for operand in node.inputs[:2]:
            if operand is not None and operand.constant is None:
                uses[operand] += 1
                if uses[operand] == 1:
                    queue.append(operand)
    return [value for value, count in uses.items() if count > 1]
