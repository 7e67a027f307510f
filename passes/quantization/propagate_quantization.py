"""Moving of QuantizeLinear and DequantizeLinear to each other through operators that only move elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Node, TensorType, Value
from graphopt.ir.facts import Trait, operators
from graphopt.passes.matching.match import NOTHING, below_opset, permutation
from graphopt.passes.quantization._moving import EIGHT_BITS, OLDEST_OPSET, moved_inputs, moved_outputs
from graphopt.passes.quantization._pairs import (
    QUANTIZE,
    Dequantized,
    Mapping,
    dequantize,
    dequantized,
    mapping_of,
    quantize,
)
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.values import number

_VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_SELECTING = frozenset(
    {"Compress", "Gather", "GatherElements", "GatherND", "MaxPool", "ReduceMax", "ReduceMin", "Slice"}
)
"""Operators whose result is smaller than their data, all of which would be quantized before them."""
_DIFFERENT = Miss("the scales before and after it differ")

_Rewrite = Callable[[Rewriter], None]


@dataclass(frozen=True)
class PropagateQuantization(RewritePass):
    """Move DequantizeLinear down and QuantizeLinear up through operators that only move elements, until they cancel.

    Transposes, reshapes, slices, concatenations, max pools and the like then work on integers. A pair with the same
    scale and zero point goes; a Relu or Clip goes where the integers saturate at the same numbers. Results keep their
    bits, except that a NaN, for which ONNX defines no integer, may become another one.
    """

    name: ClassVar[str] = "propagate-quantization"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = (
        QUANTIZE,
        *sorted(operators(traits=Trait.KEEPS_SCALE) | operators(traits=Trait.CUTS_RANGE)),
        *("Concat", "Pad", "Resize"),
    )

    def match(self, node: Node, context: PassContext) -> _Rewrite | Miss:
        if below_opset(context, OLDEST_OPSET):
            return NOTHING
        if node.op == QUANTIZE:
            return _at_quantize(node)
        return _at_cut(node) if node.op in ("Clip", "Relu") else _down(node)

    def rewrite(self, match: _Rewrite, rewriter: Rewriter) -> None:
        match(rewriter)


def _at_quantize(node: Node) -> _Rewrite | Miss:
    mapping, data = mapping_of(node), node.inputs[0]
    if mapping is None or data is None or data.producer is None:
        return NOTHING
    source = dequantized(data)
    if source is not None:
        integers = source.integers
        return (lambda rewriter: rewriter.replace(node, integers)) if source.mapping.equals(mapping) else _DIFFERENT
    before = data.producer
    if not mapping.is_uniform or data.sole_user is not node:
        return NOTHING
    if before.op in ("Clip", "Relu"):
        return _saturating(node, before, mapping)
    return _up(node, before, mapping)


def _bounds(node: Node) -> tuple[float | None, float | None] | None:
    """Return the lower and upper bound of a Relu or Clip, None for one that it lacks; None if one is computed."""
    if node.op == "Relu":
        return 0.0, None
    found = []
    for value in (node.input(1), node.input(2)):
        bound = None if value is None else number(value)
        if value is not None and (bound is None or np.isnan(bound)):
            return None
        found.append(bound)
    return found[0], found[1]


def _saturating(node: Node, cut: Node, mapping: Mapping) -> _Rewrite | Miss:
    """Remove the bounds of a Relu or Clip at which the integers after it saturate anyway."""
    bounds, data = _bounds(cut), cut.inputs[0]
    if bounds is None or data is None:
        return NOTHING
    low, high = mapping.limits
    with np.errstate(over="ignore"):
        needs_low = bounds[0] is not None and np.rint(np.float32(bounds[0]) / mapping.scale) + mapping.zero > low
        needs_high = bounds[1] is not None and np.rint(np.float32(bounds[1]) / mapping.scale) + mapping.zero < high
    if (bounds[0] is None or needs_low) and (bounds[1] is None or needs_high):
        return NOTHING

    def rewrite(rewriter: Rewriter) -> None:
        value = data
        if needs_low or needs_high:
            kept = [cut.input(1) if needs_low else None, cut.input(2) if needs_high else None]
            inputs = [data, *(kept if kept[1] is not None else kept[:1])]
            value = rewriter.op("Clip", inputs, origin=[cut]).output
        rewriter.set_input(node, 0, value)
        rewriter.remove_dead(cut)

    return rewrite


def _at_cut(node: Node) -> _Rewrite | Miss:
    """Remove a Relu or Clip of integers that stand for no number outside of its bounds."""
    source, bounds = dequantized(node.inputs[0]), _bounds(node)
    if source is None or bounds is None or not source.mapping.is_uniform or source.integers.dtype not in EIGHT_BITS:
        return NOTHING
    mapping = source.mapping
    ends = [np.float32(end - mapping.zero) * mapping.scale for end in mapping.limits]
    if (bounds[0] is not None and ends[0] < bounds[0]) or (bounds[1] is not None and ends[1] > bounds[1]):
        return NOTHING
    return lambda rewriter: rewriter.replace(node, node.inputs[0])  # type: ignore[arg-type]


def _down(node: Node) -> _Rewrite | Miss:
    """Move the DequantizeLinear of all data of a node to its results."""
    places = moved_inputs(node)
    sources = [dequantized(node.inputs[place]) for place in places]
    first = sources[0] if sources else None
    if first is None or any(source is None for source in sources) or first.integers.dtype not in EIGHT_BITS:
        return NOTHING
    if first.integers.constant is not None and node.op in ("Transpose", *_VIEWS):
        return _stored(node, first)
    if not first.mapping.is_uniform:
        return NOTHING
    if not all(source is not None and source.mapping.equals(first.mapping) for source in sources):
        return _DIFFERENT
    padding = _padding(node, first.mapping)
    if padding is None:
        return Miss("what it pads with is no integer of the scale")

    def rewrite(rewriter: Rewriter) -> None:
        inputs = _with_padding(node, rewriter, padding, first.mapping)
        for place, source in zip(places, sources, strict=True):
            assert source is not None
            inputs[place] = source.integers
        types = [_retyped(v, first.mapping) if v in moved_outputs(node) else v.type for v in node.outputs]
        made = rewriter.op(node.op_type, inputs, node.attributes, types=types, n_outputs=len(types))
        floats = [dequantize(rewriter, v, first.mapping) if v in moved_outputs(made) else None for v in made.outputs]
        rewriter.replace(node, floats)

    return rewrite


def _retyped(value: Value, mapping: Mapping) -> TensorType:
    return TensorType(mapping.dtype, value.shape)


def _padding(node: Node, mapping: Mapping) -> int | None:
    """Return the integer that stands for what a Pad adds; the zero point for other operators. None if none does."""
    if node.op != "Pad" or node.attr("mode", "constant") != "constant" or node.input(2) is None:
        return int(mapping.zero)
    value = number(node.input(2))
    if value is None or not np.isfinite(value):
        return None
    integer = mapping.integer_of(value)
    return integer if np.float32(integer - mapping.zero) * mapping.scale == np.float32(value) else None


def _with_padding(node: Node, rewriter: Rewriter, padding: int, mapping: Mapping) -> list[Value | None]:
    """Return the inputs of a node, with an integer in place of what a Pad adds."""
    inputs = list(node.inputs)
    if node.op == "Pad" and node.attr("mode", "constant") == "constant":
        inputs += [None] * (3 - len(inputs))
        inputs[2] = rewriter.constant(np.array(padding, mapping.dtype.numpy), f"{node.name}_padding")
    return inputs


def _stored(node: Node, source: Dequantized) -> _Rewrite | Miss:
    """Transpose or reshape stored integers instead of the floats that they become."""
    tensor, mapping, perm = source.integers.constant, source.mapping, permutation(node)
    assert tensor is not None
    axis, shape = mapping.axis, node.output.shape
    if node.op == "Transpose" and perm is not None:
        axis = None if axis is None else perm.index(axis)
        array = tensor.numpy().transpose(perm)
    elif node.op in _VIEWS and mapping.is_uniform and shape and all(isinstance(size, int) for size in shape):
        array = tensor.numpy().reshape([size for size in shape if isinstance(size, int)])
    else:
        return NOTHING
    moved = Mapping(mapping.scale, mapping.zero, mapping.dtype, axis)

    def rewrite(rewriter: Rewriter) -> None:
        integers = rewriter.constant(np.ascontiguousarray(array), source.integers.name)
        rewriter.replace(node, dequantize(rewriter, integers, moved))

    return rewrite


def _up(node: Node, before: Node, mapping: Mapping) -> _Rewrite | Miss:
    """Move a QuantizeLinear to the data of the node before it."""
    places = moved_inputs(before)
    data = [before.inputs[place] for place in places]
    if not data or mapping.dtype not in EIGHT_BITS or before.graph is not node.graph or len(before.outputs) > 1:
        return NOTHING
    if before.op == "Pad" and before.input(2) is not None and number(before.input(2)) is None:
        return NOTHING
    if any(value is None or (value.constant is not None and before.op != "Concat") for value in data):
        return NOTHING
    if before.op in _SELECTING and data[0] is not None and data[0].sole_user is not before:
        return NOTHING
    padding = mapping.integer_of(number(before.input(2)) or 0.0) if before.op == "Pad" else 0

    def rewrite(rewriter: Rewriter) -> None:
        inputs = _with_padding(before, rewriter, padding, mapping)
        for place, value in zip(places, data, strict=True):
            assert value is not None
            inputs[place] = quantize(rewriter, value, mapping)
        made = rewriter.op(before.op_type, inputs, before.attributes, types=[node.output.type], origin=[before, node])
        rewriter.replace(node, made.output)

    return rewrite
