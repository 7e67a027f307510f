"""Normalization across the channels of blocked values."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import Node, Value
from graphopt.passes.layout._blocks import NOTHING, UNKNOWN, Layout, Plan, channels_of, is_image
from graphopt.rewriting.passes import Miss, Rewriter


def lrn(node: Node, layout: Layout) -> Plan | Miss:
    """LRN as `graphopt::BlockedLRN`, where channels fill their blocks."""
    data = node.inputs[0]
    if data is None or data not in layout:
        return NOTHING
    if not is_image(node.output):
        return UNKNOWN
    if channels_of(data) % layout.block:
        return Miss("its channels do not fill their blocks")
    defaults = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}
    attributes = {name: float(node.attr(name, value)) for name, value in defaults.items()}

    def make(rewriter: Rewriter) -> Sequence[Value | None]:
        given = {**attributes, "size": int(node.attr("size"))}
        return [layout.op(rewriter, "BlockedLRN", [layout[data]], given, layout.type_of(node.output))]

    return make
