"""Replacement of int8 activations by uint8 ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from graphopt.ir import DType, Graph, Node, TensorType, Use, Value
from graphopt.passes.quantization._moving import OLDEST_OPSET, moved_inputs, moved_outputs
from graphopt.passes.quantization._pairs import DEQUANTIZE, QUANTIZE, mapping_of
from graphopt.rewriting.passes import Fidelity, Pass, PassContext, Rewriter

_SHIFT = 128
"""The difference between an int8 number and the uint8 one that stands for the same float."""


@dataclass
class _Group:
    """int8 values that must all become uint8 at once, because nodes only move their elements from one to another.

    `sources`: those that neither a QuantizeLinear nor a node of the group makes. `foreign`: uses by other nodes.
    """

    values: dict[Value, None] = field(default_factory=dict)
    quantizers: list[Node] = field(default_factory=list)
    readers: list[Node] = field(default_factory=list)
    movers: dict[Node, None] = field(default_factory=dict)
    sources: list[Value] = field(default_factory=list)
    foreign: list[Use] = field(default_factory=list)
    reason: str = ""


@dataclass(frozen=True)
class UnsignedActivations(Pass):
    """Make activations that are quantized to int8 uint8, with the same scale and a zero point larger by 128.

    Integer kernels multiply unsigned data by signed weights. A QuantizeLinear makes the other type for nothing; int8
    numbers that come from elsewhere, or are needed elsewhere, are converted.
    """

    name: ClassVar[str] = "unsigned-activations"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: Graph, context: PassContext) -> None:
        if context.model.opset < OLDEST_OPSET:
            return
        for inner in list(graph.all_graphs()):
            seen: set[Value] = set()
            places = {node: place for place, node in enumerate(inner.nodes)}
            for node in list(inner.nodes):
                value = node.inputs[0] if node.op == DEQUANTIZE else None
                if value is None or value in seen or not _is_signed(value) or not _is_known(node):
                    continue
                group = _group(value, inner)
                seen.update(group.values)
                if group.reason:
                    context.miss(group.reason, node)
                elif not context.allow(node):
                    return
                else:
                    _convert(group, context, places)
                    context.count("activations made unsigned", len(group.values))


def _is_signed(value: Value) -> bool:
    return value.dtype is DType.INT8 and value.constant is None


def _is_known(node: Node) -> bool:
    """Return whether the scales are constants: zero points of channels move by the same number as a single one."""
    return mapping_of(node) is not None


def _group(start: Value, graph: Graph) -> _Group:
    group, stack = _Group(), [start]
    while stack:
        value = stack.pop()
        if value in group.values:
            continue
        group.values[value] = None
        if value.graph is not graph or value.is_graph_output:
            group.reason = "int8 numbers are an output, or used across graphs"
        producer = value.producer
        if producer is not None and producer.op == QUANTIZE and _is_known(producer):
            group.quantizers.append(producer)
        elif producer is not None and _moves(producer) and value in moved_outputs(producer):
            group.movers[producer] = None
        else:
            group.sources.append(value)
        for use in value.uses:
            if use.node.graph is not graph:
                group.reason = "int8 numbers are an output, or used across graphs"
            elif use.node.op == DEQUANTIZE and use.index == 0 and _is_known(use.node):
                group.readers.append(use.node)
            elif _moves(use.node) and use.index in moved_inputs(use.node):
                group.movers[use.node] = None
            else:
                group.foreign.append(use)
        for mover in dict.fromkeys(([producer] if producer in group.movers else []) + [u.node for u in value.uses]):
            if mover in group.movers:
                stack += _connected(mover)
    return group


def _moves(node: Node) -> bool:
    if node.op == "Pad" and node.input(2) is not None and node.inputs[2].constant is None:  # type: ignore[union-attr]
        return False
    return bool(moved_inputs(node))


def _connected(mover: Node) -> list[Value]:
    """Return the values that a node moves elements between, except constants."""
    data = [mover.inputs[index] for index in moved_inputs(mover)]
    return [v for v in (*data, *moved_outputs(mover)) if v is not None and v.constant is None and v.name]


def _convert(group: _Group, context: PassContext, places: dict[Node, int]) -> None:
    rewriter = context.rewriter(next(iter(group.values)).graph)
    sources = set(group.sources)
    for use in group.foreign:
        value = use.node.inputs[use.index]
        assert value is not None
        if value in sources:
            continue  # the int8 numbers stay
        rewriter.set_input(use.node, use.index, _shifted(rewriter, value, -_SHIFT, DType.INT8, use.node))
    for mover in group.movers:
        _convert_constants(mover, rewriter)
    for node in (*group.quantizers, *dict.fromkeys(group.readers)):
        _move_zero_point(node, rewriter)
    foreign = set(group.foreign)
    for value in group.sources:
        inside = [use for use in value.uses if use.node in places and use not in foreign]
        first = min((use.node for use in inside), key=places.__getitem__)
        made = _shifted(rewriter, value, _SHIFT, DType.UINT8, first)
        for use in inside:
            rewriter.set_input(use.node, use.index, made)
    for value in group.values:
        if value not in sources and isinstance(value.type, TensorType):
            rewriter.set_type(value, TensorType(DType.UINT8, value.type.shape))


def _shifted(rewriter: Rewriter, value: Value, by: int, dtype: DType, before: Node) -> Value:
    """Return 8-bit numbers plus `by`, as the other 8-bit type."""
    wide = rewriter.op("Cast", [value], {"to": int(DType.INT32)}, before=before).output
    moved = rewriter.op("Add", [wide, rewriter.constant(np.array(by, np.int32))], before=before).output
    return rewriter.op("Cast", [moved], {"to": int(dtype)}, before=before).output


def _unsigned(rewriter: Rewriter, value: Value | None, shape: Sequence[int] = ()) -> Value:
    """Return an int8 constant (None: zeros) as uint8."""
    if value is None or value.constant is None:
        return rewriter.constant(np.full(shape, _SHIFT, np.uint8))
    return rewriter.constant((value.constant.numpy().astype(np.int32) + _SHIFT).astype(np.uint8), value.name)


def _convert_constants(mover: Node, rewriter: Rewriter) -> None:
    """Convert the constants that a node puts between the elements that it moves."""
    if mover.op == "Pad" and mover.attr("mode", "constant") == "constant":
        inputs = (*mover.inputs, *[None] * (3 - len(mover.inputs)))
        rewriter.set_inputs(mover, [*inputs[:2], _unsigned(rewriter, inputs[2]), *inputs[3:]])
    for index in moved_inputs(mover):
        value = mover.inputs[index]
        if value is not None and value.constant is not None:
            rewriter.set_input(mover, index, _unsigned(rewriter, value))


def _move_zero_point(node: Node, rewriter: Rewriter) -> None:
    scale = node.inputs[1]
    assert scale is not None
    assert scale.constant is not None
    zero = _unsigned(rewriter, node.input(2), scale.constant.shape)
    rewriter.set_inputs(node, [*node.inputs[:2], zero])
    if node.op == QUANTIZE and "output_dtype" in node.attributes:
        rewriter.set_attribute(node, "output_dtype", None)
