"""Symbolic folding of shape arithmetic, in which some dimensions are unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Graph, Node, Value
from graphopt.ir.facts import facts_of
from graphopt.passes.matching.facts import OLD_OPSET, producer_of
from graphopt.passes.matching.reshaping import constant_target
from graphopt.passes.matching.shape_facts import Item, Items, ShapeFacts, dimensions
from graphopt.passes.matching.transposing import perm_of
from graphopt.rewriting.passes import Fidelity, Pass, PassContext


@dataclass(frozen=True)
class FoldShapes(Pass):
    """Fold shape arithmetic, with symbols for dimensions that are only known at run time.

    Integers that are known become constants. The target of a Reshape becomes a constant with 0 for a copied dimension
    or -1 for an unknown one, if that means the same for every size. Shape reads the earliest value that has the shape.
    """

    name: ClassVar[str] = "fold-shapes"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: Graph, context: PassContext) -> None:
        if context.model.opset < 18:
            context.miss(OLD_OPSET.reason)
            return
        folder = _Folder(context)
        for node in graph.all_nodes():
            if not node.domain and not folder.visit(node):
                return


class _Folder:
    """One run over a model, in graph order."""

    def __init__(self, context: PassContext) -> None:
        self._context = context
        self._facts = ShapeFacts(context)
        self._origins: dict[Value, Value] = {}  # the earliest value of the same shape

    def visit(self, node: Node) -> bool:
        """Simplify one node. Return False if no more rewrites are allowed."""
        change = self._change(node)
        if change is not None:
            if not self._context.allow(node):
                return False
            change()
        return True

    def _change(self, node: Node) -> Callable[[], None] | None:
        found = self._facts.learn(node)
        if found is not None and found.numbers is not None and node.output.uses:
            return lambda: self._fold(node, found)
        if facts_of(node.op).keeps_shape and node.inputs and node.inputs[0] is not None:
            source = node.inputs[0]
            self._origins[node.output] = self._origins.get(source, source)
        match node.op_type:
            case "Reshape":
                return self._constant_reshape(node)
            case "Expand":
                return self._constant_expand(node)
            case "Shape":
                return self._earlier_shape(node)
            case "Gather":
                return self._gather_before_transpose(node)
        return None

    def _fold(self, node: Node, found: Items) -> None:
        """Replace the computation of known integers by constants."""
        assert node.output.dtype is not None
        array = np.array(found.numbers, node.output.dtype.numpy).reshape(() if found.scalar else (-1,))
        rewriter = self._context.rewriter(node.graph, node)
        rewriter.replace(node, rewriter.constant(array, node.output.name))
        self._context.count("folded")

    def _constant_reshape(self, node: Node) -> Callable[[], None] | None:
        data, target = node.input(0), node.input(1)
        items = self._facts.of(target)
        if data is None or target is None or target.constant is not None or items is None:
            return None
        if node.attr("allowzero", 0) and 0 in items.items:
            return None  # a size that is meant to be zero
        constant = constant_target(dimensions(data), items.items)
        if constant is None:
            self._context.miss("the target of a Reshape is not the same constant for every size")
            return None
        return lambda: self._set_constant(node, constant)

    def _constant_expand(self, node: Node) -> Callable[[], None] | None:
        data, target = node.input(0), node.input(1)
        items = self._facts.of(target)
        dims = None if data is None else dimensions(data)
        if dims is None or target is None or target.constant is not None or items is None:
            return None
        # Expanding a dimension to its own size is the same as expanding it to 1.
        padded = (1,) * (len(items.items) - len(dims)) + dims[max(0, len(dims) - len(items.items)) :]
        wanted = tuple(_expansion(item, dim) for item, dim in zip(items.items, padded, strict=True))
        constant = Items(wanted).numbers
        return None if constant is None else lambda: self._set_constant(node, constant)

    def _set_constant(self, node: Node, constant: tuple[int, ...]) -> None:
        old = node.inputs[1]
        assert old is not None
        rewriter = self._context.rewriter(node.graph, node)
        rewriter.set_input(node, 1, rewriter.constant(np.array(constant, np.int64), old.name))
        if old.producer is not None:
            rewriter.remove_dead(old.producer)
        if node.attr("allowzero", 0):
            rewriter.set_attribute(node, "allowzero", None)  # a 0 in the constant copies
        self._context.count("targets")

    def _earlier_shape(self, node: Node) -> Callable[[], None] | None:
        value = node.inputs[0]
        origin = None if value is None else self._origins.get(value)
        if value is None or origin is None or origin.rank is None or origin.rank != value.rank:
            return None
        return lambda: self._read_earlier(node, value, origin)

    def _read_earlier(self, node: Node, value: Value, origin: Value) -> None:
        rewriter = self._context.rewriter(node.graph, node)
        rewriter.set_input(node, 0, origin)
        if value.producer is not None:
            rewriter.remove_dead(value.producer)
        self._facts.learn(node)
        self._context.count("moved")

    def _gather_before_transpose(self, node: Node) -> Callable[[], None] | None:
        """Gather(Shape(Transpose(x)), i) is Gather(Shape(x), perm[i])."""
        shape = producer_of(node.input(0), "Shape")
        transpose = None if shape is None else producer_of(shape.input(0), "Transpose")
        indices, perm = node.input(1), perm_of(transpose)
        wanted = self._context.array(indices, 64)
        if shape is None or transpose is None or perm is None or wanted is None or shape.attributes:
            return None
        if not np.all((wanted >= -len(perm)) & (wanted < len(perm))):
            return None
        moved = np.array(perm, np.int64)[wanted]
        return lambda: self._regather(node, transpose, moved)

    def _regather(self, node: Node, transpose: Node, indices: np.ndarray) -> None:
        rewriter = self._context.rewriter(node.graph, node)
        shape = rewriter.op("Shape", [transpose.inputs[0]])
        value = rewriter.constant(indices, f"{node.output.name}_axis")
        gather = rewriter.op("Gather", [shape.output, value], types=[node.output.type])
        rewriter.replace(node, gather.output)
        self._facts.learn(shape)
        self._facts.learn(gather)
        self._context.count("moved")


def _expansion(item: Item, dim: Item) -> Item:
    """Return what to expand a dimension `dim` by to get `item`; expanding to its own size is expanding to 1."""
    return 1 if item == dim and not isinstance(item, int) else item
