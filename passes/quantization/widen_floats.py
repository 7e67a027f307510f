"""Computation in float32 instead of floats of 16 bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from graphopt.ir import DType, Graph, Node, TensorType, Value
from graphopt.passes.quantization._float_types import changeable, rounded_data
from graphopt.rewriting.passes import Fidelity, Pass, PassContext

_NARROW = frozenset({DType.FLOAT16, DType.BFLOAT16})
_AS_THEY_ARE = frozenset({"BitCast", "Cast", "CastLike"})
"""Operators whose results depend on the type of their data."""


@dataclass(frozen=True)
class WidenFloats(Pass):
    """Compute in float32 what a model computes in float16 or bfloat16; inputs and outputs keep their types.

    Without arithmetic of 16 bits, each operand of each operation would be converted, and each result. Here, values are
    converted where they enter and leave the model, so that nothing between is rounded to 16 bits. ONNX Runtime does
    the same on CPUs. Matrices that data are multiplied with stay as they are, each with a Cast: kernels convert what
    they read. Other constants become float32, also those that had a Cast before.

    For a target that multiplies bfloat16, the data of its convolutions and matmuls stay rounded, for all that reads
    them: a Cast to bfloat16 ends the kernel before, and one to float32 begins each kernel after.
    """

    name: ClassVar[str] = "widen-floats"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT

    def run(self, graph: Graph, context: PassContext) -> None:
        multiplies = context.target is not None and context.target.multiplies_bfloat16
        for inner in list(graph.all_graphs()):
            _Widening(inner, context, set(rounded_data(inner)) if multiplies else set()).run()
            _widen_constants(inner, context)


@dataclass
class _Widening:
    """The conversion of the nodes of one graph."""

    graph: Graph
    context: PassContext
    rounded: set[Value]
    """The values of bfloat16 that are read as such."""
    wide: dict[Value, Value] = field(default_factory=dict)
    """By value of 16 bits: the same in float32."""

    def run(self) -> None:
        casts: list[Node] = []
        for node in list(self.graph.nodes):
            if node.op == "Cast" and node.output.dtype is DType.FLOAT and self._is_passed(node):
                continue
            places = None
            if node.op not in _AS_THEY_ARE:
                places = changeable(node, self.context.model.opset, _NARROW, "tensor(float)")
            if places is not None and self.context.allow(node):
                casts += self._convert(node, *places)
                self.context.count("nodes in float32")
        for cast in reversed(casts):
            if not cast.removed and not cast.output.has_uses:
                self.context.rewriter(self.graph).remove_dead(cast)

    def _is_passed(self, cast: Node) -> bool:
        """Let those that read a Cast to float32 read the value itself, if there is one; else remember the Cast."""
        data = cast.inputs[0]
        assert data is not None
        if data in self.rounded:
            return True
        if data in self.wide and self.context.allow(cast):
            self.context.rewriter(self.graph, cast).replace(cast, self.wide[data])
            return True
        if data.dtype in _NARROW:
            self.wide.setdefault(data, cast.output)
        return False

    def _convert(self, node: Node, taken: list[int], given: list[int]) -> list[Node]:
        """Make a node compute in float32; return the Casts of its operands and results."""
        rewriter, casts = self.context.rewriter(self.graph, node), []
        inputs = list(node.inputs)
        for i in taken:
            value = inputs[i]
            assert value is not None
            inputs[i] = self._widened(node, value)
            producer = value.producer
            if producer is not None and producer.op == "Cast" and producer.graph is self.graph:
                casts.append(producer)
        types = [
            TensorType(DType.FLOAT, value.shape) if i in given else value.type for i, value in enumerate(node.outputs)
        ]
        new = rewriter.op(node.op_type, inputs, node.attributes, n_outputs=len(node.outputs), types=types)
        results = list(new.outputs)
        for i in given:
            kind = node.outputs[i].dtype
            assert kind is not None
            cast = rewriter.op("Cast", [new.outputs[i]], {"to": int(kind)}, types=[node.outputs[i].type])
            results[i] = cast.output
            casts.append(cast)
            if node.outputs[i] in self.rounded:
                self.rounded.add(cast.output)
            else:
                self.wide[cast.output] = new.outputs[i]
        rewriter.replace(node, results)
        return casts

    def _widened(self, node: Node, value: Value) -> Value:
        if value not in self.wide:
            rewriter, source = self.context.rewriter(self.graph, node), value.producer
            original = source.input(0) if source is not None and source.op == "Cast" else None
            if original is not None and original.dtype is DType.FLOAT and value not in self.rounded:
                self.wide[value] = original
            else:
                wide = TensorType(DType.FLOAT, value.shape)
                cast = rewriter.op("Cast", [value], {"to": int(DType.FLOAT)}, types=[wide], name=f"{value.name}/wide")
                self.wide[value] = cast.output
        return self.wide[value]


def _widen_constants(graph: Graph, context: PassContext) -> None:
    """Replace Casts of constants by constants, but for those of the matrices of products."""
    for cast in list(graph.nodes):
        data = cast.input(0) if cast.op == "Cast" and cast.output.dtype is DType.FLOAT else None
        if data is None or data.constant is None or data.dtype not in _NARROW or _is_matrix(cast.output):
            continue
        if context.allow(cast):
            rewriter = context.rewriter(graph, cast)
            rewriter.replace(cast, rewriter.constant(data.constant.numpy().astype(np.float32), data.name))
            context.count("constants in float32")


def _is_matrix(value: Value) -> bool:
    """Return whether only products read a value, as a matrix on their right."""
    users = value.users
    plain = value.shape is not None and len(value.shape) == 2 and not value.is_graph_output and bool(users)
    return (
        plain
        and all(user.op in ("MatMul", "Gemm") and user.inputs[0] is not value for user in users)
        and all(user.input(2) is not value for user in users)
    )
