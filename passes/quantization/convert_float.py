"""Conversion to 16-bit floats: float16 where the ranges of values allow it, bfloat16 for the operands of products."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import ml_dtypes
import numpy as np

from graphopt.compression.accumulators import Range
from graphopt.compression.statistics import collect
from graphopt.errors import PassError
from graphopt.ir import DType, Graph, Node, TensorType, Value, infer_shapes
from graphopt.passes.quantization._float_types import changeable, multiplied_data
from graphopt.passes.quantization.ignoring import check_patterns, ignored_nodes
from graphopt.rewriting.passes import Fidelity, Pass, PassContext

_SUMS = frozenset(
    {"CumSum", "InstanceNormalization", "GroupNormalization", "LayerNormalization", "LpNormalization", "Pow"}
    | {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum"}
    | {"ReduceSumSquare", "RMSNormalization", "MeanVarianceNormalization"}
)
"""Operators whose intermediate sums and squares overflow although their results do not."""
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).tiny)
_MARGIN = 4
_WORTH = 256
"""Weights with fewer elements than this stay float32 in bfloat16: they would save nothing."""


@dataclass(frozen=True)
class ConvertFloat(Pass):
    """Convert a float32 model to float16 where values fit, or store its weights as bfloat16.

    `to=float16` needs samples: a node stays in float32 if one of its values comes near the limits of float16, or has
    only numbers too small for it, on any of them. So do normalizations, powers and reductions, which sum squares, and
    nodes with nested graphs. Inputs and outputs of the model stay float32. `to=bfloat16` converts weights alone, each
    followed by a Cast: few runtimes compute on bfloat16.

    With `activations`, a Cast to bfloat16 and one back also follow each value that a convolution or matmul multiplies
    with constants. Every runtime then computes these products as a processor with instructions for them does: of two
    bfloat16, summed in float32.

    Options:
        to: `float16` or `bfloat16`.
        activations: with `bfloat16`: round the data of products too, not only their weights.
        keep: patterns for nodes that stay in float32: names, operators, `re:EXPRESSION`, `from..to`.
    """

    name: ClassVar[str] = "convert-float"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY

    to: str = "float16"
    activations: bool = False
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.to not in ("float16", "bfloat16"):
            raise ValueError("to must be float16 or bfloat16")
        if self.activations and self.to != "bfloat16":
            raise ValueError("activations must be false: with float16, they are converted wherever they fit")
        check_patterns(self.keep)

    def run(self, graph: Graph, context: PassContext) -> None:
        infer_shapes(context.model)
        kept = ignored_nodes(graph, self.keep, context)
        if self.to == "bfloat16":
            _store_weights(graph, context, kept, 1 if self.activations else _WORTH)
            if self.activations:
                _round_data(graph, context, kept)
        else:
            _Conversion(graph, context, kept).run()
        if not context.counts:
            reasons = "; ".join(context.misses) or "it computes on no floats"
            raise PassError(f"there is nothing to convert ({reasons})", where=context.model.name)


def _store_weights(graph: Graph, context: PassContext, kept: set[Node], least: int) -> None:
    """Replace the weights of products, if they have `least` elements, by bfloat16 and a Cast to float32."""
    made: dict[Value, Value] = {}
    for node in graph.all_nodes():
        weights = node.input(1) if node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul") else None
        if weights is None or weights.constant is None or weights.dtype is not DType.FLOAT:
            continue
        if node in kept or weights.constant.size < least:
            context.miss("it is to be left alone" if node in kept else "it has few weights", node)
        elif context.allow(node):
            rewriter = context.rewriter(node.graph, node)
            if weights not in made or made[weights].graph is not node.graph:
                half = rewriter.constant(weights.constant.numpy().astype(ml_dtypes.bfloat16), weights.name)
                cast = rewriter.op("Cast", [half], {"to": int(DType.FLOAT)}, name=f"{weights.name}/cast")
                made[weights] = cast.output
            rewriter.set_input(node, 1, made[weights])
            context.count("products with weights in bfloat16")


def _round_data(graph: Graph, context: PassContext, kept: set[Node]) -> None:
    """Round what products multiply with weights in bfloat16; all that read such a value read it rounded."""
    done: set[Value] = set()
    for node in list(graph.all_nodes()):
        data = multiplied_data(node)
        if data is None or data.dtype is not DType.FLOAT or data in done or node in kept or not context.allow(node):
            continue
        rewriter = context.rewriter(node.graph, node)
        readers = [user for user in data.users if user.graph is node.graph]
        half = TensorType(DType.BFLOAT16, data.shape)
        there = rewriter.op("Cast", [data], {"to": int(DType.BFLOAT16)}, types=[half], name=f"{data.name}/bfloat16")
        back = rewriter.op(
            "Cast", [there.output], {"to": int(DType.FLOAT)}, types=[data.type], name=f"{data.name}/cast"
        )
        done |= {data, back.output}
        for reader in readers:
            for index, read in enumerate(reader.inputs):
                if read is data:
                    rewriter.set_input(reader, index, back.output)
        context.count("values in bfloat16")


@dataclass
class _Conversion:
    """The conversion of the nodes of one graph to float16."""

    graph: Graph
    context: PassContext
    kept: set[Node]
    halves: dict[Value, Value] = field(default_factory=dict)
    """By value of float32: the same in float16."""

    def run(self) -> None:
        nodes = [node for node in self.graph.nodes if self._floats(node) is not None]
        strange = self._strange(nodes)
        casts: list[Node] = []
        for node in nodes:
            reason = self._reason(node, strange)
            if reason is not None:
                self.context.miss(f"{node.op}: {reason}", node)
            elif self.context.allow(node):
                casts += self._convert(node)
                self.context.count("nodes in float16")
        for cast in casts:
            if not cast.removed and not cast.output.has_uses:
                self.context.rewriter(self.graph).remove_dead(cast)

    def _floats(self, node: Node) -> tuple[list[int], list[int]] | None:
        return changeable(node, self.context.model.opset, {DType.FLOAT}, "tensor(float16)")

    def _strange(self, nodes: list[Node]) -> dict[Value, str]:
        """Return the values that do not fit float16, each with the reason."""
        self.context.evaluation.require("samples")
        samples = self.context.evaluation.samples
        assert samples is not None
        values = {
            v for node in nodes for v in (*node.inputs, *node.outputs) if v is not None and v.dtype is DType.FLOAT
        }
        found = {v: _misfit_of(v.constant.numpy()) for v in values if v.constant is not None}
        names = sorted(v.name for v in values if v.constant is None)
        tell = self.context.progress
        statistics = collect(self.context.model, samples, names, ["range"], progress=tell) if names else None
        for value in values - found.keys():
            assert statistics is not None
            seen = statistics.values[value.name]["range"]
            assert isinstance(seen, Range)
            found[value] = _misfit(max(-seen.low, seen.high, 0.0), bool(seen.strange))
        return {value: reason for value, reason in found.items() if reason}

    def _reason(self, node: Node, strange: dict[Value, str]) -> str | None:
        """Return why a node stays in float32."""
        if node in self.kept:
            return "it is to be left alone"
        if node.op in _SUMS:
            return "its sums may overflow"
        reasons = [strange[value] for value in (*node.inputs, *node.outputs) if value is not None and value in strange]
        return reasons[0] if reasons else None

    def _convert(self, node: Node) -> list[Node]:
        """Make a node compute in float16; return the Casts of its results to float32."""
        places = self._floats(node)
        assert places is not None
        rewriter = self.context.rewriter(self.graph, node)
        inputs = [v if i not in places[0] or v is None else self._half(node, v) for i, v in enumerate(node.inputs)]
        types = [
            TensorType(DType.FLOAT16, value.shape) if i in places[1] else value.type
            for i, value in enumerate(node.outputs)
        ]
        new = rewriter.op(node.op_type, inputs, node.attributes, n_outputs=len(node.outputs), types=types)
        results, casts = list(new.outputs), []
        for i in places[1]:
            cast = rewriter.op("Cast", [new.outputs[i]], {"to": int(DType.FLOAT)}, types=[node.outputs[i].type])
            results[i] = cast.output
            casts.append(cast)
            self.halves[cast.output] = new.outputs[i]
        rewriter.replace(node, results)
        return casts

    def _half(self, node: Node, value: Value) -> Value:
        if value not in self.halves:
            rewriter = self.context.rewriter(self.graph, node)
            if value.constant is not None:
                self.halves[value] = rewriter.constant(value.constant.numpy().astype(np.float16), value.name)
            else:
                half = TensorType(DType.FLOAT16, value.shape)
                cast = rewriter.op("Cast", [value], {"to": int(DType.FLOAT16)}, types=[half], name=f"{value.name}/half")
                self.halves[value] = cast.output
        return self.halves[value]


def _misfit_of(array: np.ndarray) -> str:
    """Return why a constant does not fit; "" if it does."""
    size = float(np.abs(array).max(initial=0.0))
    return _misfit(size, not np.isfinite(array).all())


def _misfit(size: float, strange: bool) -> str:
    """Return why values whose largest magnitude is `size` do not fit, or that some are not finite."""
    if strange or size > _LARGEST / _MARGIN:
        return "its values come near the limits of float16"
    return "its values are too small for float16" if 0 < size < _SMALLEST else ""
