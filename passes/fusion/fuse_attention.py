"""Recognition of decomposed scaled dot-product attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from graphopt.ir import DType, Node, Shape, Value
from graphopt.passes.fusion._attention import Scores, guarded, scores, ungrouped
from graphopt.passes.fusion._attention_mask import leaves_empty_rows, mask_input, masks_fit
from graphopt.passes.matching.match import NOTHING, axis_of, below_opset, produced_by, same_dim
from graphopt.rewriting.passes import Fidelity, Miss, PassContext, RewritePass, Rewriter
from graphopt.rewriting.values import ESCAPES, escapes


@dataclass(frozen=True)
class _Match:
    root: Node
    scores: Scores
    values: Value
    precision: DType | None
    """The type that softmax is computed in, if it differs from that of the data."""
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class FuseAttention(RewritePass):
    """Recognize softmax(scale * Q @ Kᵀ + mask) @ V as Attention.

    The scale may be applied to the scores, to Q, to K or to both, by multiplication with or division by a constant; one
    or two masks may be added, or be a Where with a large negative number. Q, K and V have the axes batch, heads,
    sequence, size, or batch, sequence, size; keys and values that are copied for groups of heads are used without the
    copies. A guard that turns the NaN of a fully masked row into 0 is removed, because Attention itself does that.
    """

    name: ClassVar[str] = "fuse-attention"
    fidelity: ClassVar[Fidelity] = Fidelity.FLOAT
    ops: ClassVar[tuple[str, ...]] = ("Softmax",)

    def match(self, node: Node, context: PassContext) -> _Match | Miss:
        weights, after = guarded(node)
        argument, precision = node.inputs[0], None
        assert argument is not None
        casts = _casts(argument, weights)
        if casts is not None:
            argument, weights, precision = casts[0].inputs[0], casts[1].output, node.output.dtype
            after = (*after, *casts)
        assert argument is not None
        root = next((u for u in weights.users if u.op == "MatMul" and u.inputs[0] is weights), None)
        if root is None:
            return NOTHING
        found = scores(argument)
        if found is None:
            return NOTHING
        if isinstance(found, Miss):
            return found
        values = root.inputs[1]
        assert values is not None
        match = _Match(root, found, values, precision, (*found.nodes, node, *after, root))
        return _checked(match, node, context) or _without_copies(match)

    def rewrite(self, match: _Match, rewriter: Rewriter) -> None:
        found, root = match.scores, match.root
        origin = [*match.nodes, *found.keys.nodes]
        keys = found.keys.source
        if found.keys.perm is not None:
            perm = {"perm": found.keys.perm}
            keys = rewriter.op("Transpose", [keys], perm, origin=found.keys.nodes, before=root).output
        inputs: list[Value | None] = [found.queries, keys, match.values]
        if found.masks:
            inputs.append(mask_input(found.masks, found.queries, rewriter, root))
        attributes: dict[str, object] = {"scale": found.scale}
        if found.queries.rank == 3:
            attributes |= {"q_num_heads": 1, "kv_num_heads": 1}
        if match.precision is not None:
            attributes["softmax_precision"] = int(match.precision)
        new = rewriter.op(
            "Attention", inputs, attributes, types=[root.output.type], origin=origin, name=root.name, before=root
        )
        rewriter.replace(root, [new.output])


def _without_copies(match: _Match) -> _Match:
    """Return the match with the original keys and values, if each is copied for a group of heads."""
    keys = match.scores.keys
    few_keys, few_values = ungrouped(keys.source), ungrouped(match.values)
    if few_keys is None or few_values is None or few_keys[1] != few_values[1] or keys.perm is not None:
        return match
    found = replace(match.scores, keys=replace(keys, source=few_keys[0]))
    return replace(match, scores=found, values=few_values[0])


def _casts(argument: Value, weights: Value) -> tuple[Node, Node] | None:
    """The casts around a softmax that is computed in a wider type than its data."""
    before, after = produced_by(argument, "Cast"), weights.sole_user
    if before is None or after is None or after.op != "Cast":
        return None
    source = before.inputs[0]
    if source is None or source.dtype is None or after.attr("to") != int(source.dtype):
        return None
    wider = weights.dtype in (DType.FLOAT, DType.DOUBLE) and source.dtype in (DType.FLOAT16, DType.BFLOAT16)
    return (before, after) if wider else None


def _checked(match: _Match, softmax: Node, context: PassContext) -> Miss | None:
    """Return why a match must be declined, or None."""
    found = match.scores
    queries, keys, values = found.queries, found.keys.source, match.values
    if (old := below_opset(context, 23)) is not None:
        return old
    rank = queries.rank
    if rank not in (3, 4) or keys.rank != rank or values.rank != rank:
        return Miss("queries, keys and values are not known to have 3 or 4 axes each")
    if axis_of(softmax.attr("axis", -1), rank) != rank - 1:
        return Miss("the softmax is not over the keys")
    if escapes(match.nodes, match.root):
        return Miss(ESCAPES)
    if queries.dtype is None or (queries.dtype is DType.DOUBLE and float(np.float32(found.scale)) != found.scale):
        return Miss("a scale in double precision")
    shape = _keys_shape(found)
    assert queries.shape is not None
    assert values.shape is not None
    for other in (shape, values.shape):
        if not all(same_dim(a, b) for a, b in zip(queries.shape[:-2], other[:-2])):
            return Miss("queries, keys and values are not known to have the same batch and heads")
    if not found.masks:
        return None
    if leaves_empty_rows(found.masks) and not any(node.op == "IsNaN" for node in match.nodes):
        return Miss("a row that the mask forbids entirely would be 0 instead of NaN")
    return masks_fit(found.masks, queries, (*queries.shape[:-1], shape[-2]))


def _keys_shape(found: Scores) -> Shape:
    shape, perm = found.keys.source.shape, found.keys.perm
    assert shape is not None
    return shape if perm is None else tuple(shape[axis] for axis in perm)
