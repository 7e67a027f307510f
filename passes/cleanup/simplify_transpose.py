"""Cancellation and merging of transposes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Node, TensorType, Value, ValueType
from graphopt.passes.matching.facts import OLD_OPSET, producer_of, same_shape
from graphopt.passes.matching.reshaping import RESHAPES, reshape_source
from graphopt.passes.matching.transposing import (
    Perm,
    Step,
    as_reshape,
    composed,
    inverse,
    is_identity,
    moved_ones,
    perm_of,
    regrouped,
    step_through,
)
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter


@dataclass(frozen=True)
class _Composed:
    node: Node
    inner: Node
    perm: Perm


@dataclass(frozen=True)
class _Reshaped:
    node: Node
    target: tuple[int, ...]


@dataclass(frozen=True)
class _Regrouped:
    node: Node
    source: Value
    outer: Node  # the last one that is replaced
    perm: Perm
    origin: tuple[Node, ...]


@dataclass(frozen=True)
class _Sunk:
    node: Node
    steps: tuple[Step, ...]
    end: Node | None  # the Transpose after the steps that absorbs the moved one


@dataclass(frozen=True)
class SimplifyTranspose(RewritePass):
    """Cancel and merge transposes, moving one through other operators where that makes them fewer.

    A Transpose moves down through elementwise operators, Softmax, Concat and integer reductions if it then meets
    another Transpose, merges with an equal one at another operand, or becomes a no-op. One that moves only dimensions
    of size 1 becomes a Reshape; one next to reshapes that merge axes for it and split them again, or that only move
    dimensions of size 1, replaces these.
    """

    name: ClassVar[str] = "simplify-transpose"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    ops: ClassVar[tuple[str, ...]] = ("Transpose",)

    def match(self, node: Node, context: PassContext) -> _Composed | _Reshaped | _Regrouped | _Sunk | Miss:
        perm, data = perm_of(node), node.input(0)
        if perm is None or data is None or is_identity(perm):
            return Miss("")
        inner = producer_of(data, "Transpose")
        inner_perm = perm_of(inner)
        if inner is not None and inner_perm is not None:
            return _Composed(node, inner, composed(inner_perm, perm))
        target = as_reshape(node, perm)
        if target is not None and data.constant is None:
            return _Reshaped(node, target) if context.model.opset >= 18 else OLD_OPSET
        regrouped = _between_reshapes(node, perm) or _beside_moved_ones(node, perm)
        if regrouped is not None:
            return regrouped if context.model.opset >= 18 else OLD_OPSET
        return self._sink(node, perm, context)

    def _sink(self, node: Node, perm: Perm, context: PassContext) -> _Sunk | Miss:
        steps: list[Step] = []
        value = node.output
        while True:
            user = value.sole_user
            if user is None:
                several = steps and not value.is_graph_output
                return Miss("several nodes use the result on the way to another Transpose" if several else "")
            if user.op_type == "Transpose" and not user.domain:
                end_perm = perm_of(user)
                found = steps and end_perm is not None
                return self._if_modern(_Sunk(node, tuple(steps), user), context) if found else Miss("")
            step = step_through(user, value.uses[0].index, perm, context)
            if step is None:
                return Miss("")
            steps.append(step)
            perm, value = step.perm, user.output
            if step.joins or is_identity(perm):
                return self._if_modern(_Sunk(node, tuple(steps), None), context)

    def _if_modern(self, found: _Sunk, context: PassContext) -> _Sunk | Miss:
        return found if context.model.opset >= 18 else OLD_OPSET

    def rewrite(self, match: _Composed | _Reshaped | _Regrouped | _Sunk, rewriter: Rewriter) -> None:
        node = match.node
        if isinstance(match, _Composed):
            source = match.inner.inputs[0]
            assert source is not None
            result = _transposed(rewriter, source, match.perm, node.output.type, (match.inner, node))
        elif isinstance(match, _Regrouped):
            node = match.outer
            result = _transposed(rewriter, match.source, match.perm, node.output.type, match.origin)
        elif isinstance(match, _Reshaped):
            target = rewriter.constant(np.array(match.target, np.int64), f"{node.output.name}_shape")
            operands = [node.inputs[0], target]
            result = rewriter.op("Reshape", operands, types=[node.output.type], origin=(node,)).output
        else:
            _sink(match, rewriter)
            return
        rewriter.replace(node, [result])


def _between_reshapes(node: Node, perm: Perm) -> _Regrouped | None:
    inner, outer = reshape_source(node), node.output.sole_user
    source = None if inner is None else inner.input(0)
    if inner is None or source is None or source.shape is None or outer is None:
        return None
    if outer.domain or outer.op_type not in RESHAPES or outer.input(0) is not node.output:
        return None
    full = regrouped(source.shape, inner.output.shape, perm)
    if full is None or not same_shape(tuple(source.shape[axis] for axis in full), outer.output.shape):
        return None
    return _Regrouped(node, source, outer, full, (inner, node, outer))


def _beside_moved_ones(node: Node, perm: Perm) -> _Regrouped | None:
    """Treat a reshape before or after a Transpose that only moves dimensions of size 1 as a transpose too."""
    data, inner, outer = node.input(0), reshape_source(node), node.output.sole_user
    source = None if inner is None else inner.input(0)
    if inner is not None and source is not None and inner.output.sole_user is node:
        first = moved_ones(source.shape, inner.output.shape)
        if first is not None:
            return _Regrouped(node, source, node, composed(first, perm), (inner, node))
    if data is not None and outer is not None and not outer.domain and outer.op_type in RESHAPES:
        last = moved_ones(node.output.shape, outer.output.shape)
        if last is not None and outer.input(0) is node.output:
            return _Regrouped(node, data, outer, composed(perm, last), (node, outer))
    return None


def _transposed(
    rewriter: Rewriter, value: Value, perm: Perm, type_: ValueType, origin: tuple[Node, ...], before: Node | None = None
) -> Value:
    if is_identity(perm):
        return value
    node = rewriter.op("Transpose", [value], {"perm": perm}, types=[type_], origin=origin, before=before)
    return node.output


def _sink(match: _Sunk, rewriter: Rewriter) -> None:
    value = match.node.inputs[0]
    assert value is not None
    last = match.steps[-1].node
    anchor = match.end or last
    for step in match.steps:
        value = _run_before(step, value, rewriter, anchor)
    perm = match.steps[-1].perm
    replaced = last
    origin: tuple[Node, ...] = (match.node,)
    if match.end is not None:
        end_perm = perm_of(match.end)
        assert end_perm is not None
        perm, replaced, origin = composed(perm, end_perm), match.end, (match.node, match.end)
    result = _transposed(rewriter, value, perm, replaced.output.type, origin, anchor)
    rewriter.replace(replaced, [result])


def _run_before(step: Step, data: Value, rewriter: Rewriter, anchor: Node) -> Value:
    """Apply the operator of a step to the operand of the transpose."""
    node = step.node
    inputs: list[Value | None] = []
    for position, given in enumerate(step.inputs):
        if isinstance(given, np.ndarray):
            old = node.inputs[position]
            inputs.append(rewriter.constant(given, old.name if old is not None else ""))
        elif given is None and position < len(node.inputs) and node.inputs[position] is None:
            inputs.append(None)  # an omitted input
        else:
            inputs.append(data if given is None else given)
    attributes = {**node.attributes, **step.attributes}
    type_ = _untransposed_type(node.output.type, step.perm)
    moved = rewriter.op(node.op_type, inputs, attributes, types=[type_], origin=(node,), before=anchor)
    return moved.output


def _untransposed_type(type_: ValueType, perm: Perm) -> ValueType:
    if not isinstance(type_, TensorType) or type_.shape is None or len(type_.shape) != len(perm):
        return type_ if isinstance(type_, TensorType) and type_.shape is None else None
    shape = type_.shape
    return TensorType(type_.dtype, tuple(shape[axis] for axis in inverse(perm)))
