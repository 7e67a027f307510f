"""Deliberately wrong passes, each with the mistake in its name: the checks must catch every one.

Each rewrites only the node named `GUILTY` wrongly and the others correctly, so that naming the pass is not enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import DType, Graph, Node, TensorType, edit
from graphopt.rewriting.passes import Fidelity, Miss, Pass, PassContext, RewritePass, Rewriter

GUILTY = "layer5_relu"
LAYERS = 8

MODEL = (
    "g (float[2,4] X) => (float[2,4] Y) {"
    + " ".join(
        f"[layer{i}_add] m{i} = Add({'X' if i == 0 else f'r{i - 1}'}, w{i}) [layer{i}_relu] r{i} = Relu(m{i})"
        for i in range(LAYERS)
    )
    + f" Y = Add(r{LAYERS - 1}, r0) }}"
)
"""Eight layers of an addition and a ReLU; the weights are `WEIGHTS`."""

WEIGHTS = {f"w{i}": np.random.default_rng(i).normal(size=4).astype(np.float32) for i in range(LAYERS)}


@dataclass(frozen=True)
class HarmlessPass(RewritePass):
    """Writes ReLU as the maximum with zero, which is right."""

    name: ClassVar[str] = "planted-harmless"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Relu",)

    def match(self, node: Node, context: PassContext) -> Any:
        return node

    def rewrite(self, match: Node, rewriter: Rewriter) -> None:
        zero = rewriter.constant(np.zeros((), np.float32))
        rewriter.replace(match, rewriter.op("Max", [match.inputs[0], zero]).output)


@dataclass(frozen=True)
class HarmlessAddPass(RewritePass):
    """Looks at additions and leaves them alone."""

    name: ClassVar[str] = "planted-harmless-add"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    ops: ClassVar[tuple[str, ...]] = ("Add",)

    def match(self, node: Node, context: PassContext) -> Any:
        return Miss("an addition is good as it is")

    def rewrite(self, match: Any, rewriter: Rewriter) -> None:
        raise AssertionError("nothing matches")


def _is_guilty(node: Node) -> bool:
    return GUILTY in node.origin


@dataclass(frozen=True)
class WrongConstantPass(HarmlessPass):
    """Writes ReLU as a maximum, once with a wrong constant."""

    name: ClassVar[str] = "planted-wrong-constant"

    def rewrite(self, match: Node, rewriter: Rewriter) -> None:
        constant = np.full((), 1.5 if _is_guilty(match) else 0.0, np.float32)
        rewriter.replace(match, rewriter.op("Max", [match.inputs[0], rewriter.constant(constant)]).output)


@dataclass(frozen=True)
class ForTargetPass(WrongConstantPass):
    """Writes ReLU as a maximum where the target has AVX-512, once with a wrong constant."""

    name: ClassVar[str] = "planted-for-target"

    def match(self, node: Node, context: PassContext) -> Any:
        wide = context.target is not None and "avx512f" in context.target.features
        return node if wide else Miss("the target has no wide vectors")


@dataclass(frozen=True)
class DroppedNodePass(HarmlessPass):
    """Writes ReLU as a maximum, and once forgets the node."""

    name: ClassVar[str] = "planted-dropped-node"

    def rewrite(self, match: Node, rewriter: Rewriter) -> None:
        producer = match.inputs[0].producer
        if _is_guilty(match) and producer is not None:
            rewriter.replace(match, producer.inputs[0])
        else:
            super().rewrite(match, rewriter)


@dataclass(frozen=True)
class BadShapePass(HarmlessPass):
    """Writes ReLU as a maximum, once as the maximum over the rows, which has another shape."""

    name: ClassVar[str] = "planted-bad-shape"

    def rewrite(self, match: Node, rewriter: Rewriter) -> None:
        if not _is_guilty(match):
            super().rewrite(match, rewriter)
            return
        axes = rewriter.constant(np.array([0]))
        rewriter.replace(match, rewriter.op("ReduceMax", [match.inputs[0], axes], {"keepdims": 1}).output)


@dataclass(frozen=True)
class WrongTypePass(HarmlessPass):
    """Writes ReLU as a maximum, once with a type that is not the value's."""

    name: ClassVar[str] = "planted-wrong-type"

    def rewrite(self, match: Node, rewriter: Rewriter) -> None:
        if not _is_guilty(match):
            super().rewrite(match, rewriter)
            return
        zero = rewriter.constant(np.zeros((), np.float32))
        maximum = rewriter.op("Max", [match.inputs[0], zero], types=[TensorType(DType.FLOAT, (2, 7))])
        rewriter.replace(match, maximum.output)


@dataclass(frozen=True)
class NanPass(HarmlessPass):
    """Writes ReLU as a maximum, once divided by zero."""

    name: ClassVar[str] = "planted-nan"

    def rewrite(self, match: Node, rewriter: Rewriter) -> None:
        if not _is_guilty(match):
            super().rewrite(match, rewriter)
            return
        zero = rewriter.constant(np.zeros((), np.float32))
        rewriter.replace(match, rewriter.op("Div", [rewriter.op("Max", [match.inputs[0], zero]).output, zero]).output)


@dataclass(frozen=True)
class RaisingPass(HarmlessPass):
    """Writes ReLU as a maximum, and once raises."""

    name: ClassVar[str] = "planted-raising"

    def rewrite(self, match: Node, rewriter: Rewriter) -> None:
        if _is_guilty(match):
            raise IndexError("the planted mistake")
        super().rewrite(match, rewriter)


@dataclass(frozen=True)
class CyclePass(HarmlessPass):
    """Writes ReLU as a maximum, and once makes it depend on itself."""

    name: ClassVar[str] = "planted-cycle"

    def rewrite(self, match: Node, rewriter: Rewriter) -> None:
        producer = match.inputs[0].producer
        if _is_guilty(match) and producer is not None:
            rewriter.set_input(producer, 0, match.output)
        else:
            super().rewrite(match, rewriter)


@dataclass(frozen=True)
class DanglingPass(HarmlessPass):
    """Writes ReLU as a maximum, and once goes around the Rewriter and leaves a value that nothing makes."""

    name: ClassVar[str] = "planted-dangling"

    def rewrite(self, match: Node, rewriter: Rewriter) -> None:
        if _is_guilty(match):
            edit.set_inputs(match, [edit.new_value(match.graph, "nobody")])
        else:
            super().rewrite(match, rewriter)


@dataclass(frozen=True)
class LostOutputPass(HarmlessPass):
    """Writes ReLU as a maximum, and once gives the graph another output."""

    name: ClassVar[str] = "planted-lost-output"

    def rewrite(self, match: Node, rewriter: Rewriter) -> None:
        if _is_guilty(match):
            rewriter.set_outputs([match.inputs[0]])
        else:
            super().rewrite(match, rewriter)


@dataclass(frozen=True)
class NotExactPass(HarmlessPass):
    """Promises the same bits and changes one weight by a millionth."""

    name: ClassVar[str] = "planted-not-exact"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    ops: ClassVar[tuple[str, ...]] = ("Add",)

    def match(self, node: Node, context: PassContext) -> Any:
        weight = node.inputs[1]
        return node if weight is not None and weight.name == "w5" else Miss("")

    def rewrite(self, match: Node, rewriter: Rewriter) -> None:
        weight = match.inputs[1]
        rewriter.set_input(match, 1, rewriter.constant(weight.tensor.numpy() * np.float32(1 + 1e-6)))


@dataclass(frozen=True)
class LossyPass(Pass):
    """Says that it loses something, and makes the output larger by a hundredth."""

    name: ClassVar[str] = "planted-lossy"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY

    def run(self, graph: Graph, context: PassContext) -> None:
        last = graph.outputs[0].producer
        if last is not None and context.allow(last):
            rewriter = context.rewriter(graph)
            scaled = rewriter.op("Mul", [last.output, rewriter.constant(np.array(1.01, np.float32))], origin=[last])
            rewriter.replace_uses(last.output, scaled.output)
            rewriter.set_input(scaled, 0, last.output)


@dataclass(frozen=True)
class UnaskedPass(Pass):
    """A pass over the whole graph that never asks before it rewrites, and gets one node wrong."""

    name: ClassVar[str] = "planted-unasked"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT

    def run(self, graph: Graph, context: PassContext) -> None:
        for node in graph.nodes:
            if node.op == "Relu" and _is_guilty(node):
                rewriter = context.rewriter(graph, node)
                rewriter.replace(node, rewriter.op("Abs", [rewriter.op("Neg", [node.inputs[0]]).output]).output)


@dataclass(frozen=True)
class AllAtOncePass(Pass):
    """A pass that asks for all of its rewrites before it makes any, and gets one wrong."""

    name: ClassVar[str] = "planted-all-at-once"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT

    def run(self, graph: Graph, context: PassContext) -> None:
        nodes = [node for node in graph.nodes if node.op == "Relu"]
        if all(context.allow(node) for node in nodes):
            for node in nodes:
                rewriter = context.rewriter(graph, node)
                rewriter.replace(node, rewriter.op("Abs" if _is_guilty(node) else "Relu", [node.inputs[0]]).output)


WRONG: tuple[type[Pass], ...] = (
    WrongConstantPass,
    DroppedNodePass,
    BadShapePass,
    WrongTypePass,
    NanPass,
    RaisingPass,
    CyclePass,
    DanglingPass,
    LostOutputPass,
    NotExactPass,
    UnaskedPass,
    AllAtOncePass,
)
