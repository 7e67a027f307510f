"""A clipped straight line as the operator HardSigmoid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import DType, Node, Value
from graphopt.passes.matching.match import NOTHING, below_opset, produced_by
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.polynomial import expression, follow
from graphopt.rewriting.values import ESCAPES, close, escapes, number


@dataclass(frozen=True)
class ClippedLine:
    """`Clip(slope * data + offset, 0, top)`, and the nodes that compute it."""

    data: Value
    slope: float
    offset: float
    top: float
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class _Match:
    root: Node
    line: ClippedLine
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class FuseHardSigmoid(RewritePass):
    """Recognize Clip(x + 3, 0, 6) / 6, and other lines through 1/2 clipped to 0..1, as HardSigmoid."""

    name: ClassVar[str] = "fuse-hard-sigmoid"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Clip",)

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        reason = NOTHING
        for line in reversed(clipped_lines(node)):
            found = _with_division(node, line, context)
            if not isinstance(found, Miss):
                return found
            reason = found
        return reason

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        line = match.line
        new = rewriter.op(
            "HardSigmoid",
            [line.data],
            {"alpha": line.slope / line.top, "beta": line.offset / line.top},
            types=[match.root.output.type],
            origin=match.nodes,
            before=match.root,
        )
        rewriter.replace(match.root, [new.output])


def _with_division(clip: Node, line: ClippedLine, context: PassContext) -> _Match | Miss:
    """The line and the division that brings its top to 1, if it needs one."""
    if (old := below_opset(context, 22)) is not None:
        return old
    root, nodes, dtype = clip, line.nodes, line.data.dtype
    if not close(line.top, 1.0, dtype):
        found = follow(clip.output, (clip.output,), {(1,): 1.0 / line.top}, dtype)
        if found is None:
            return NOTHING if close(line.top, 6.0, dtype) else Miss("the clipped line does not end at 1")
        root, nodes = found[0], (*nodes, *found[1])
    if escapes(nodes, root):
        return Miss(ESCAPES)
    if dtype is DType.DOUBLE:
        return Miss("double precision: HardSigmoid holds its factors in float32")
    return _Match(root, line, nodes)


def clipped_lines(clip: Node) -> list[ClippedLine]:
    """What a Clip from 0 to a constant makes of rising lines that are half of it at 0, the nearest source first.

    There can be several, since the source of a line may itself be a product with a constant. A source that is a sum
    (a bias, a shortcut) gives another offset, so it is not read too far back.
    """
    argument = clip.inputs[0]
    assert argument is not None
    low, top = number(clip.input(1)), number(clip.input(2))
    if low != 0 or top is None or top <= 0:
        return []
    lines = []
    source = argument
    for _ in range(3):
        producer = produced_by(source, "Add", "Sub", "Mul", "Div")
        data = [] if producer is None else [v for v in producer.inputs[:2] if v is not None and v.constant is None]
        if len(data) != 1:
            break
        source = data[0]
        found = expression(argument, (source,))
        if found is None:
            break
        slope, offset = found.polynomial.get((1,), 0.0), found.polynomial.get((0,), 0.0)
        if close(offset / top, 0.5, source.dtype) and slope > 0:
            lines.append(ClippedLine(source, slope, offset, top, (*found.nodes, clip)))
    return lines
