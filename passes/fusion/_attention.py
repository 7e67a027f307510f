"""The parts of decomposed scaled dot-product attention: scale, mask, transposed keys, guard."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir import Node, Value
from graphopt.passes.fusion._attention_mask import Mask, leads_to_product, masked
from graphopt.passes.matching.match import permutation, produced_by, same_dim, same_shape
from graphopt.rewriting.passes import Miss
from graphopt.rewriting.polynomial import scaled
from graphopt.rewriting.values import number


@dataclass(frozen=True)
class Keys:
    """The source of the keys, which were transposed into the right factor of the scores."""

    source: Value
    perm: tuple[int, ...] | None
    """The permutation from `source` to [..., keys, size]; None if it has that layout already."""
    scale: float
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Scores:
    """The decomposed argument of Softmax: `scale * queries @ transposed keys`, masked."""

    queries: Value
    keys: Keys
    scale: float
    masks: tuple[Mask, ...]
    nodes: tuple[Node, ...]
    """The nodes from the matmul to the argument, which must have no other use."""


def scores(argument: Value) -> Scores | Miss | None:
    """Return Softmax's argument as attention scores; None if it contains no matmul."""
    masks, value, nodes = masked(argument)
    source, factor, steps = scaled(value)[-1]
    product = produced_by(source, "MatMul")
    if product is None:
        if steps and masked(source)[0]:
            return Miss("the scores are scaled after they are masked")
        return Miss("the scale is not constant") if leads_to_product(source) else None
    first, second = product.inputs[:2]
    assert first is not None
    assert second is not None
    queries, query_factor, _ = _unscaled(first)
    keys = _keys(second)
    if keys is None:
        return Miss("the keys do not come out of a transpose")
    scale = factor * query_factor * keys.scale
    if scale <= 0:
        return Miss("the scale is not positive")
    return Scores(queries, keys, scale, masks, (*nodes, *steps, product))


def _unscaled(value: Value) -> tuple[Value, float, tuple[Node, ...]]:
    """Return `value` without constant factors, as far as their results have no other use."""
    found = scaled(value)
    best = found[0]
    for candidate, outer in zip(found[1:], found):
        if outer[0].sole_user is None:
            break
        best = candidate
    return best


def _keys(value: Value) -> Keys | None:
    """Return the keys before factors and a transpose, which may do more than swap the last two axes."""
    outer, factor, steps = _unscaled(value)
    transpose = produced_by(outer, "Transpose")
    perm = None if transpose is None else permutation(transpose)
    if transpose is None or perm is None or len(perm) < 3:
        split = _through_matrices(outer)
        return None if split is None else Keys(split[0], None, factor, (*steps, *split[1]))
    source = transpose.inputs[0]
    assert source is not None
    more = 1.0
    inner_steps: tuple[Node, ...] = ()
    if transpose.output.sole_user is not None:
        source, more, inner_steps = _unscaled(source)
    wanted = (*perm[:-2], perm[-1], perm[-2])
    kept = wanted == tuple(range(len(perm)))
    return Keys(source, None if kept else wanted, factor * more, (*steps, transpose, *inner_steps))


def _through_matrices(value: Value) -> tuple[Value, tuple[Node, ...]] | None:
    """Return K of Reshape(Transpose(Reshape(K, [-1, n, d]), [0, 2, 1]), [b, h, d, n]), a swap of its last two axes."""
    outer = produced_by(value, "Reshape")
    transpose = None if outer is None else produced_by(outer.inputs[0], "Transpose")
    inner = None if transpose is None else produced_by(transpose.inputs[0], "Reshape")
    if outer is None or transpose is None or inner is None or permutation(transpose) != (0, 2, 1):
        return None
    source, middle, shape = inner.inputs[0], inner.output.shape, value.shape
    if source is None or source.shape is None or middle is None or shape is None or len(middle) != 3:
        return None
    rank = len(source.shape)
    same = all(same_dim(a, b) for a, b in zip(source.shape[-2:], middle[-2:]))
    swapped = (*source.shape[:-2], source.shape[-1], source.shape[-2])
    if rank != len(shape) or not same or not all(same_dim(a, b) for a, b in zip(swapped[1:], shape[1:])):
        return None
    return source, (outer, transpose, inner)


def guarded(softmax: Node) -> tuple[Value, tuple[Node, ...]]:
    """Return the weights after softmax, including a guard that turns NaN into 0, and the guard's nodes.

    For a query whose keys are all masked, Attention returns 0, but softmax alone returns NaN, like Attention without
    the guard.
    """
    check = next((user for user in softmax.output.users if user.op == "IsNaN"), None)
    where = None if check is None else check.output.sole_user
    if check is None or where is None or where.op != "Where":
        return softmax.output, ()
    condition, zero, kept = where.inputs[:3]
    if condition is not check.output or kept is not softmax.output or number(zero) != 0:
        return softmax.output, ()
    return where.output, (check, where)


def ungrouped(value: Value) -> tuple[Value, int] | None:
    """Return the value whose heads `value` repeats (grouped-query attention), and how often; None if it repeats none.

    `value` is Reshape(Expand([batch, groups, 1, length, size])), which puts the copies of a head next to each other.
    """
    reshape = produced_by(value, "Reshape")
    expand = None if reshape is None else produced_by(reshape.inputs[0], "Expand")
    view = None if expand is None else produced_by(expand.inputs[0], "Unsqueeze", "Reshape")
    source = None if view is None else view.inputs[0]
    if expand is None or view is None or source is None or source.shape is None or len(source.shape) != 4:
        return None
    batch, groups, *rest = source.shape
    wide = expand.output.shape
    copies = wide[2] if wide is not None and len(wide) == 5 else None
    if not isinstance(groups, int) or not isinstance(copies, int):
        return None
    shapes = (
        (view.output.shape, (batch, groups, 1, *rest)),
        (wide, (batch, groups, copies, *rest)),
        (value.shape, (batch, groups * copies, *rest)),
    )
    return (source, copies) if all(same_shape(found, wanted) for found, wanted in shapes) else None
