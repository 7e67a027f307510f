"""Conversion of the model to one recent opset, so that later passes see a single form of each operator."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import onnx

from graphopt.ir import DType, Graph, Node, infer_shapes
from graphopt.ir.verify import RUNTIME_OPERATORS, find_schema
from graphopt.passes.normalize import image_adapters, opset_adapters  # noqa: F401  (importing registers adapters)
from graphopt.passes.normalize.adapting import ADAPTERS, Adapt, Decline
from graphopt.passes.normalize.kernels import LACKING
from graphopt.rewriting.passes import Fidelity, Pass, PassContext

_OLDEST, _NEWEST = 7, 24
_RUNTIME_NAMES = {DType.FLOAT: "float", DType.DOUBLE: "double"}


@dataclass(frozen=True)
class RaiseOpset(Pass):
    """Convert the model to a recent opset: attributes that became inputs, operators that were renamed.

    `to` is the opset, at most 24: all changes up to it (onnx/docs/Changelog.md) are handled. A lower opset is used if
    ONNX Runtime, which must be able to load the result, has a kernel for a node's operator only in an older version
    (`kernels.py` lists these). The model stays as it is if a single node cannot be converted with the same meaning;
    each such node is counted as a miss.
    """

    name: ClassVar[str] = "raise-opset"
    # Results are mathematically the same, but a runtime may have another kernel for another version: ONNX Runtime sums
    # an AveragePool of opset 19 in another order than one of opset 11.
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT

    to: int = _NEWEST

    def __post_init__(self) -> None:
        if not _OLDEST <= self.to <= _NEWEST:
            raise ValueError(f"to must be {_OLDEST} to {_NEWEST}")

    def run(self, graph: Graph, context: PassContext) -> None:
        opset = context.model.opset
        bodies = [f for f in context.model.functions.values() if any(n.domain == "" for n in f.graph.all_nodes())]
        to = self._goal(graph, opset, context)
        if opset >= to or not (bodies or any(node.domain == "" for node in graph.all_nodes())):
            return
        if any(any(plan_raising(function.graph, opset, to)) for function in bodies):
            context.miss("the model has functions whose bodies would have to change")
            return
        plans, declines = plan_raising(graph, opset, to)
        for node, reason in declines:
            context.miss(f"{node.op_type}: {reason}", node)
        if declines or not all(context.allow(node) for node, _ in plans):
            return
        context.rewriter(graph).set_opset("", to)
        for node, adapt in plans:
            adapt(context.rewriter(node.graph, node))
        context.count("nodes adapted", len(plans))

    def _goal(self, graph: Graph, opset: int, context: PassContext) -> int:
        """The newest opset up to `to` in which ONNX Runtime has as many kernels as in this one."""
        by_type = LACKING.keys() | ADAPTERS.keys()  # what becomes of these may depend on the element type
        if opset < self.to and any(node.op_type in by_type and _decisive(node) is None for node in graph.all_nodes()):
            infer_shapes(context.model)
        goal = self.to
        functions = [function.graph for function in context.model.functions.values()]
        for node in (n for g in (graph, *functions) for n in g.all_nodes() if n.domain == ""):
            limit = _last_with_kernel(node, opset)
            if limit < self.to:
                context.miss(f"{node.op_type}: ONNX Runtime has no kernel for it after opset {limit}", node)
            goal = min(goal, limit)
        return goal


def _last_with_kernel(node: Node, opset: int) -> int:
    """The newest opset for which ONNX Runtime has a kernel for a node, if it has one for `opset`."""
    dtype = _decisive(node)
    name = None if dtype is None else _RUNTIME_NAMES.get(dtype, dtype.text)
    limits = [
        version - 1
        for version, dtypes in LACKING.get(node.op_type, {}).items()
        if version > opset and (name is None or name in dtypes)
    ]
    return min(limits, default=_NEWEST)


def _decisive(node: Node) -> DType | None:
    """The element type of a node's first input (or output), by which ONNX Runtime chooses a kernel, if it is known."""
    value = next((v for v in (*node.inputs[:1], *node.outputs[:1]) if v is not None), None)
    return None if value is None else value.dtype


def plan_raising(graph: Graph, opset: int, to: int) -> tuple[list[tuple[Node, Adapt]], list[tuple[Node, str]]]:
    """Return what to change in a graph, including nested ones, so that it means the same in another opset.

    These are the nodes to be converted, and those that cannot be converted, each with the reason.
    """
    plans: list[tuple[Node, Adapt]] = []
    declines: list[tuple[Node, str]] = []
    for node in graph.all_nodes():
        plan = _plan(node, opset, to) if node.domain == "" else None
        if isinstance(plan, Decline):
            declines.append((node, plan.reason))
        elif plan is not None:
            plans.append((node, plan))
    return plans, declines


def _plan(node: Node, opset: int, to: int) -> Adapt | Decline | None:
    """Return what to do with a node: nothing, a conversion, or a reason why it cannot be converted."""
    old, new = find_schema(node.op_type, "", opset), find_schema(node.op_type, "", to)
    if old is not None and new is not None and old.since_version == new.since_version:
        return None
    if to < opset:
        return Decline(f"opset {opset} is newer than {to}")
    if old is None and node.op_type not in RUNTIME_OPERATORS:
        return Decline(f"it is not in opset {opset}")
    if opset < _OLDEST:
        return Decline(f"opset {opset} is older than {_OLDEST}, where broadcasting changed")
    if node.op_type in ADAPTERS:
        return ADAPTERS[node.op_type](node, 1 if old is None else old.since_version, to)
    if not _is_extension(node.op_type, opset, to):
        return Decline(f"it changed its meaning between opset {opset} and {to}")
    return None


@functools.cache
def _is_extension(op_type: str, opset: int, to: int) -> bool:
    """Return whether the newer operator takes everything that the older one takes, in the same places."""
    old, new = find_schema(op_type, "", opset), find_schema(op_type, "", to)
    if old is None or new is None or new.deprecated:
        return False
    if old.since_version == new.since_version:
        return True
    inputs = all(a.name == b.name for a, b in zip(old.inputs, new.inputs, strict=False))
    attributes = all(_same_default(old, new, name) for name in old.attributes)
    return inputs and attributes and len(old.inputs) <= len(new.inputs) and len(old.outputs) <= len(new.outputs)


def _same_default(old: onnx.defs.OpSchema, new: onnx.defs.OpSchema, name: str) -> bool:
    return name in new.attributes and old.attributes[name].default_value == new.attributes[name].default_value
