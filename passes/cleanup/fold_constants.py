"""Constant folding."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from graphopt.ir import DType, Graph, Node, OpaqueType, Tensor, Value
from graphopt.passes.matching.evaluating import evaluate
from graphopt.passes.matching.facts import is_random
from graphopt.rewriting.passes import Fidelity, Pass, PassContext

# A weight that stays int8 before DequantizeLinear is a quarter of the folded size, and integer kernels look for it.
_KEPT = frozenset(("Constant", "DequantizeLinear"))
_HUGE_BYTES = 1 << 30  # not even as an intermediate result


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Evaluate what depends on constants alone, and turn Constant nodes into initializers.

    ONNX Runtime does the evaluation, in one session for the whole model. A result replaces its expression if it is no
    larger than the constants that it frees, or than the limit. DequantizeLinear stays, so that quantized weights keep
    their size; so do random operators, strings and sequences.

    limit: the number of bytes by which a result may be larger than the constants that it frees.
    """

    name: ClassVar[str] = "fold-constants"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    limit: int = 65536

    def run(self, graph: Graph, context: PassContext) -> None:
        _name_constants(graph, context)
        plan = _plan(graph, context)
        wave = [value for node in plan.freed for value in node.outputs if _is_wanted(value, plan)]
        seen = set(wave)
        while wave:
            chosen, smaller = self._split(wave, plan, context)
            for value, result in evaluate(chosen, context.model).items():
                if isinstance(result, str):
                    context.miss(f"cannot be evaluated: {result}")
                elif result.nbytes > self._allowed(value, plan):
                    context.miss("the result is larger than its constants and the limit")
                elif not _fold(value, result, context):
                    return
                else:
                    continue
                smaller.append(value)
            # The operands of a value that is too large, or fails, may still be worth folding.
            operands = (v for value in smaller if value.producer is not None for v in value.producer.inputs)
            wave = [v for v in dict.fromkeys(operands) if v is not None and v.producer in plan.freed and v not in seen]
            seen.update(wave)

    def _split(self, wave: Iterable[Value], plan: _Plan, context: PassContext) -> tuple[list[Value], list[Value]]:
        """Divide the values into those that are small enough, judging by their types, and the others."""
        chosen: list[Value] = []
        rejected: list[Value] = []
        for value in wave:
            size = _bytes(value)
            if size is not None and size > self._allowed(value, plan):
                context.miss("the result is larger than its constants and the limit")
                rejected.append(value)
            else:
                chosen.append(value)
        return chosen, rejected

    def _allowed(self, value: Value, plan: _Plan) -> int:
        assert value.producer is not None
        return max(self.limit, plan.freed[value.producer])


@dataclass
class _Plan:
    """The nodes that depend on constants alone, with the bytes of constants that are freed by folding them."""

    freed: dict[Node, int] = field(default_factory=dict)


def _name_constants(graph: Graph, context: PassContext) -> None:
    """Turn the contents of Constant nodes into initializers; a graph's output has to stay a node."""
    for node in graph.all_nodes():
        tensor = node.constant_value if node.op == "Constant" else None
        if tensor is None or node.output.is_graph_output or not node.output.has_uses:
            continue
        if not context.allow(node):
            return
        rewriter = context.rewriter(node.graph, node)
        rewriter.replace(node, rewriter.constant(tensor, node.output.name))
        context.count("constants")


def _plan(graph: Graph, context: PassContext) -> _Plan:
    plan = _Plan()
    for node in graph.all_nodes():
        if _is_foldable(node, plan, context):
            plan.freed[node] = sum(_freed_by(value, plan) for value in dict.fromkeys(node.inputs) if value is not None)
    return plan


def _is_foldable(node: Node, plan: _Plan, context: PassContext) -> bool:
    if node.domain or node.op_type in _KEPT or node.subgraphs or not node.inputs or is_random(node, context):
        return False
    if ("", node.op_type, node.overload) in context.model.functions:
        return False
    if node.op_type == "Identity" and node.output.is_graph_output:
        return False  # this is how a graph returns a constant
    if not all(v is None or v.constant is not None or v.producer in plan.freed for v in node.inputs):
        return False
    return all(_is_numeric(value) and (_bytes(value) or 0) <= _HUGE_BYTES for value in node.outputs)


def _is_numeric(value: Value) -> bool:
    return not isinstance(value.type, OpaqueType) and value.dtype is not DType.STRING


def _bytes(value: Value) -> int | None:
    """The size of a value, if its type tells."""
    if value.dtype is None or value.shape is None:
        return None
    sizes = [dim for dim in value.shape if isinstance(dim, int)]
    return math.prod(sizes) * value.dtype.bits // 8 if len(sizes) == len(value.shape) else None


def _freed_by(value: Value, plan: _Plan) -> int:
    """Return the bytes of constants that become unused once the only user of `value` is folded."""
    if len(value.users) != 1 or value.is_graph_output:
        return 0
    if value.constant is not None:
        return value.constant.nbytes
    return plan.freed.get(value.producer, 0) if value.producer is not None else 0


def _is_wanted(value: Value, plan: _Plan) -> bool:
    """Return whether anything but foldable nodes needs the value."""
    return value.is_graph_output or any(use.node not in plan.freed for use in value.uses)


def _fold(value: Value, result: np.ndarray, context: PassContext) -> bool:
    """Replace a value by a constant. Return False if no more rewrites are allowed."""
    node = value.producer
    assert node is not None
    if not context.allow(node):
        return False
    rewriter = context.rewriter(value.graph, node)
    rewriter.replace_uses(value, rewriter.constant(Tensor.of(result), value.name))
    removed = rewriter.remove_dead(node)
    context.count("values")
    context.count("nodes", removed)
    return True
