"""x * hard-sigmoid(x) as the operator HardSwish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import DType, Node, Value
from graphopt.passes.fusion.fuse_hard_sigmoid import clipped_lines
from graphopt.passes.matching.match import ESCAPES, NOTHING, below_opset, close, escapes, other_input
from graphopt.passes.matching.polynomial import follow
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Match:
    root: Node
    data: Value
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class FuseHardSwish(RewritePass):
    """Recognize x * HardSigmoid(x) and x * Clip(x + 3, 0, 6) / 6, in any order of factors, as HardSwish."""

    name: ClassVar[str] = "fuse-hard-swish"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("HardSigmoid", "Clip")

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        found = _of_hard_sigmoid(node) if node.op == "HardSigmoid" else _of_clip(node)
        if isinstance(found, Miss):
            return found
        if (old := below_opset(context, 22)) is not None:
            return old
        if escapes(found.nodes, found.root):
            return Miss(ESCAPES)
        if found.data.dtype is DType.DOUBLE:
            return Miss("double precision: HardSwish holds its factors in float32")
        return found

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        new = rewriter.op(
            "HardSwish",
            [match.data],
            types=[match.root.output.type],
            origin=match.nodes,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])


def _of_hard_sigmoid(node: Node) -> _Match | Miss:
    data = node.inputs[0]
    assert data is not None
    for user in node.output.users:
        if user.op != "Mul" or other_input(user, node.output) is not data:
            continue
        slope, offset = node.attr("alpha", 0.2), node.attr("beta", 0.5)
        if not (close(slope, 1 / 6, DType.FLOAT) and close(offset, 0.5, DType.FLOAT)):
            return Miss("the hard sigmoid is not that of hard swish: alpha 1/6, beta 1/2")
        return _Match(user, data, (node, user))
    return NOTHING


def _of_clip(clip: Node) -> _Match | Miss:
    for line in clipped_lines(clip):
        data, dtype = line.data, line.data.dtype
        if close(line.slope / line.top, 1 / 6, dtype):
            found = follow(clip.output, (data, clip.output), {(1, 1): 1.0 / line.top}, dtype)
            if found is not None:
                return _Match(found[0], data, (*line.nodes, *found[1]))
    return NOTHING
