"""Refinement of sizes that ONNX's inference leaves open, by following shape arithmetic through the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from graphopt.ir import Dim, Graph, Node, Shape, TensorType, Value, ValueType
from graphopt.ir.facts import Kind, operators
from graphopt.ir.infer import node_types
from graphopt.passes.matching.facts import OLD_OPSET, normalized_axes
from graphopt.passes.matching.shape_facts import Item, ShapeFacts
from graphopt.rewriting.passes import Fidelity, Pass, PassContext, Rewriter

_END = 10**9
"""Exporters write "to the end" as a number beyond any axis: this one, or the largest integer of some width."""


@dataclass(frozen=True)
class RefineShapes(Pass):
    """Find sizes that shape inference leaves open: reshapes to computed shapes, symbolic slices, broadcasts.

    Every symbol stands for one size, so a size that turns out to equal another gets its name. Only in this way can it
    be known whether a mask fits the scores that it is added to.
    """

    name: ClassVar[str] = "refine-shapes"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: Graph, context: PassContext) -> None:
        if context.model.opset < 18:
            context.miss(OLD_OPSET.reason)
            return
        for inner in list(graph.all_graphs()):
            rewriter = context.rewriter(inner)
            with rewriter.lent_types() as lend:
                refinement = _Refinement(ShapeFacts(context), rewriter, lend)
                for node in inner.nodes:
                    refinement.visit(node)
                found = {value: value.shape for value in refinement.declared}
            refinement.finish(found)
            context.count("values refined", refinement.refined)


@dataclass
class _Refinement:
    """One walk over a graph in order."""

    facts: ShapeFacts
    rewriter: Rewriter
    lend: Callable[[Value, ValueType], None]
    changed: set[Value] = field(default_factory=set)
    shorter: dict[str, set[Dim]] = field(default_factory=dict)
    """By symbol: the size of which it is the minimum with some number (or the size itself)."""
    declared: dict[Value, TensorType] = field(default_factory=dict)
    refined: int = 0

    def visit(self, node: Node) -> None:
        """Refine the outputs of `node`; all nodes before it must have been visited."""
        self.facts.learn(node)
        if node.domain or node.subgraphs or not node.outputs:
            return
        rule = _RULES.get(node.op_type)
        found = None if rule is None else rule(node, self)
        if found is not None:
            self._assign(node.output, found)
        elif rule is None and any(value in self.changed for value in node.inputs if value is not None):
            self._infer_again(node)

    def _infer_again(self, node: Node) -> None:
        """Run ONNX's inference with the refined sizes of the inputs; symbols that it invents are ignored."""
        symbols = {d for v in node.inputs if v is not None and v.shape is not None for d in v.shape}
        for value, type_ in node_types(node).items():
            if isinstance(type_, TensorType) and type_.shape is not None:
                self._assign(value, tuple(d if isinstance(d, int) or d in symbols else None for d in type_.shape))

    def _assign(self, value: Value, shape: Shape) -> None:
        """Give a value the sizes found."""
        type_ = value.type
        if not isinstance(type_, TensorType) or (type_.shape is not None and len(type_.shape) != len(shape)):
            return
        known = type_.shape or (None,) * len(shape)
        merged = tuple(_better(a, b) for a, b in zip(known, shape))
        if merged == type_.shape:
            return
        self.changed.add(value)
        self.refined += 1
        if value.is_graph_output:
            self.declared.setdefault(value, type_)
            self.lend(value, TensorType(type_.dtype, merged))
        else:
            self.rewriter.set_type(value, TensorType(type_.dtype, merged))

    def finish(self, found: Mapping[Value, Shape | None]) -> None:
        """Give the graph outputs the sizes found, with the names that they were declared with."""
        for value, type_ in self.declared.items():
            shape = found[value]
            assert shape is not None
            declared = type_.shape or (None,) * len(shape)
            kept = tuple(b if a is None or isinstance(b, int) else a for a, b in zip(declared, shape))
            self.refined -= kept == type_.shape
            self.rewriter.set_type(value, TensorType(type_.dtype, kept))

    def broadcast(self, first: Dim, second: Dim) -> Dim:
        """Return the size of two broadcast sizes, which is known only if one of them cannot be 1."""
        if first == 1 or first == second:
            return second
        if second == 1:
            return first
        if isinstance(first, int):
            return first
        if isinstance(second, int):
            return second
        # The minimum of n and a number broadcasts to n only if it is n or 1: the result is n in both cases.
        if isinstance(first, str) and second is not None and second in self.shorter.get(first, ()):
            return second
        if isinstance(second, str) and first is not None and first in self.shorter.get(second, ()):
            return first
        return None


def _better(known: Dim, found: Dim) -> Dim:
    return known if isinstance(known, int) or found is None else found


def _elementwise(node: Node, refinement: _Refinement) -> Shape | None:
    shapes = [value.shape for value in node.inputs if value is not None]
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes) or not known:
        return None
    rank = max(len(shape) for shape in known)
    result: list[Dim] = [1] * rank
    for shape in known:
        padded = (1,) * (rank - len(shape)) + shape
        result = [refinement.broadcast(a, b) for a, b in zip(result, padded)]
    return tuple(result)


def _size(item: Item) -> Dim:
    """Return what the integers of a shape say about a size; symbols without a name cannot be expressed."""
    return item if isinstance(item, str) or (isinstance(item, int) and item >= 0) else None


def _reshape(node: Node, refinement: _Refinement) -> Shape | None:
    data, target = node.inputs[0], refinement.facts.of(node.input(1))
    if data is None or target is None or target.scalar:
        return None
    shape, result = data.shape, []
    for axis, item in enumerate(target.items):
        if item == 0 and not node.attr("allowzero", 0):
            result.append(shape[axis] if shape is not None and axis < len(shape) else None)
        else:
            result.append(_size(item))
    if target.items.count(-1) == 1 and shape is not None:
        at = target.items.index(-1)
        rest = result[:at] + result[at + 1 :]
        result[at] = _remaining(shape, rest)
    return tuple(result)


def _remaining(shape: Shape, rest: list[Dim]) -> Dim:
    """Return the one remaining size of `shape` if `rest` are the others: a number, one symbol, or unknown."""
    if None in shape or None in rest:
        return None
    symbols = [d for d in shape if isinstance(d, str)]
    for dim in rest:
        if isinstance(dim, str):
            if dim not in symbols:
                return None
            symbols.remove(dim)
    have = math.prod(d for d in shape if isinstance(d, int))
    taken = math.prod(d for d in rest if isinstance(d, int))
    if taken == 0 or have % taken:
        return None
    if not symbols:
        return have // taken
    return symbols[0] if len(symbols) == 1 and have == taken else None


def _expand(node: Node, refinement: _Refinement) -> Shape | None:
    data, target = node.inputs[0], refinement.facts.of(node.input(1))
    if data is None or data.shape is None or target is None or target.scalar:
        return None
    wanted = tuple(_size(item) for item in target.items)
    rank = max(len(wanted), len(data.shape))
    pairs = zip(*((1,) * (rank - len(shape)) + shape for shape in (data.shape, wanted)))
    return tuple(refinement.broadcast(a, b) for a, b in pairs)


def _slice(node: Node, refinement: _Refinement) -> Shape | None:
    data = node.inputs[0]
    starts, ends = refinement.facts.integers(node.input(1)), refinement.facts.of(node.input(2))
    if data is None or data.shape is None or starts is None or ends is None or node.output.shape is None:
        return None
    axes = tuple(range(len(starts))) if node.input(3) is None else refinement.facts.integers(node.input(3))
    steps = (1,) * len(starts) if node.input(4) is None else refinement.facts.integers(node.input(4))
    if axes is None or steps is None:
        return None
    result = list(data.shape)
    for axis, start, end, step in zip(normalized_axes(axes, len(result)), starts, ends.items, steps):
        result[axis] = _cut(data.shape[axis], node.output.shape[axis], start, end, step, refinement)
    return tuple(result)


def _cut(size: Dim, now: Dim, start: int, end: Item, step: int, refinement: _Refinement) -> Dim:
    """Return the size of a slice; `now` is its current name."""
    if step != 1 or start != 0:
        return None
    if end == size or (isinstance(end, int) and end >= _END):
        return size
    length = _size(end)
    if isinstance(size, int) and isinstance(length, str) and isinstance(now, str):
        refinement.shorter.setdefault(now, set()).add(length)
    return None


def _constant_of_shape(node: Node, refinement: _Refinement) -> Shape | None:
    target = refinement.facts.of(node.input(0))
    return None if target is None or target.scalar else tuple(_size(item) for item in target.items)


_RULES: dict[str, Callable[[Node, _Refinement], Shape | None]] = {
    **dict.fromkeys(operators(Kind.BROADCAST), _elementwise),
    "Reshape": _reshape,
    "Expand": _expand,
    "Slice": _slice,
    "ConstantOfShape": _constant_of_shape,
}
