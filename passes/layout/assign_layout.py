"""Assignment of channel-blocked layouts to the activations of convolutional networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph, Node, Value
from graphopt.operators import DOMAIN, OLDEST_OPSET
from graphopt.passes.layout import _axes, _conv, _elementwise, _integer, _norm, _pool
from graphopt.passes.layout._blocks import Layout, Plan
from graphopt.rewriting.passes import Fidelity, Miss, Pass, PassContext

Rule = Callable[[Node, Layout], Plan | Miss]

RULES: dict[str, Rule] = {
    "Conv": _conv.conv,
    "ConvInteger": _integer.conv_integer,
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _integer.quantize),
    "Cast": _elementwise.unary,
    **dict.fromkeys(_elementwise.UNARY, _elementwise.unary),
    **dict.fromkeys(_elementwise.BROADCAST, _elementwise.broadcast),
    **dict.fromkeys(("Identity", "Dropout"), _elementwise.same),
    "BatchNormalization": _elementwise.batch_normalization,
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool.pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _pool.global_pool),
    "LRN": _norm.lrn,
    "Concat": _axes.concat,
    "Split": _axes.split,
    "DepthToSpace": _axes.depth_to_space,
    "Resize": _axes.resize,
    "Pad": _axes.pad,
    "Slice": _axes.slice_,
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"), _pool.reduce),
}
"""How each operator is applied to blocked values."""


@dataclass(frozen=True)
class AssignLayout(Pass):
    """Block the channels of convolutions, and of everything between them, by the vector width of the target.

    A plain [N, C, H, W] becomes [N, C / block, H, W, block] (see `graphopt.operators`) from the first convolution on,
    through all operators that support it, and plain again where something else reads it. `block`: channels in a block,
    a power of two; 0 stands for the float32 lanes of the target's vectors, and does nothing without a CPU target.
    """

    name: ClassVar[str] = "assign-layout"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT

    block: int = 0

    def __post_init__(self) -> None:
        if self.block < 0 or self.block & (self.block - 1) or self.block == 1:
            raise ValueError("block must be 0 or a power of two from 2 on")

    def run(self, graph: Graph, context: PassContext) -> None:
        block = self.block or _lanes(context)
        if not block:
            context.miss("no target with vectors, and no block, is given")
        elif context.model.opset < OLDEST_OPSET:
            context.miss(f"the model's opset is older than {OLDEST_OPSET}")
        else:
            for inner in list(graph.all_graphs()):
                _assign(inner, context, Layout(block))


def _lanes(context: PassContext) -> int:
    target = context.target
    return target.vector_bits // 32 if target is not None and target.kind == "cpu" else 0


def _assign(graph: Graph, context: PassContext, layout: Layout) -> None:
    """Walk a graph once, creating a blocked counterpart for each value that can have one; then remove plain ones."""
    done: list[Node] = []
    for node in graph.nodes:
        rule = RULES.get(node.op)
        if node.op == f"{DOMAIN}::FromBlocked":
            _remember(node, layout)
        if rule is None:
            continue
        plan = rule(node, layout)
        if isinstance(plan, Miss):
            context.miss(plan.reason, node)
            continue
        if not context.allow(node):
            break
        for value, blocked in zip(node.outputs, plan(context.rewriter(graph, node)), strict=True):
            if blocked is not None:
                layout[value] = blocked
        context.count("nodes blocked")
        done.append(node)
    for node in reversed(done):
        if not node.removed:
            _remove_plain(node, context, layout)


def _remember(node: Node, layout: Layout) -> None:
    """Record the conversions of a model that was blocked before, so that blocking continues from these."""
    blocked = node.inputs[0]
    if blocked is not None and blocked.shape is not None and blocked.shape[-1] == layout.block:
        layout[node.output] = blocked


def _remove_plain(node: Node, context: PassContext, layout: Layout) -> None:
    """Remove a plain node; remaining consumers of its result read the conversion of the blocked one."""
    rewriter = context.rewriter(node.graph, node)
    values: list[Value | None] = []
    for value in node.outputs:
        if value.has_uses:
            context.count("values made plain again")
        values.append(layout.plain(value, layout[value], rewriter) if value.has_uses else None)
    rewriter.replace(node, values)
