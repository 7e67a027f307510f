"""Rules by which operators commute with Transpose: op(transpose(x)) = transpose(op'(x)), bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.ir import DType, Node, Shape, Value
from graphopt.ir.facts import Kind, Placement, facts_of
from graphopt.passes.matching.facts import constant_ints, is_static, normalized_axes, producer_of, same_shape
from graphopt.rewriting.passes import PassContext

Perm = tuple[int, ...]

_SINGLE = (DType.FLOAT, DType.FLOAT16)
_SMALL_BYTES = 1024


@dataclass(frozen=True)
class Step:
    """One operator moved before a transpose instead of after it.

    `inputs` are the new inputs: None stands for the value of the previous step, an array for a new constant. `perm`
    transposes the result. `joins` counts other transposes that become unnecessary.
    """

    node: Node
    inputs: tuple[Value | np.ndarray | None, ...]
    perm: Perm
    attributes: Mapping[str, object] = field(default_factory=dict)
    joins: int = 0


def perm_of(node: Node | None) -> Perm | None:
    """The permutation of a Transpose, or None if it is not known."""
    if node is None:
        return None
    perm = node.attr("perm")
    if perm is not None:
        return tuple(perm)
    value = node.input(0)
    return None if value is None or value.rank is None else tuple(reversed(range(value.rank)))


def composed(first: Perm, second: Perm) -> Perm:
    """Return the permutation of transposing by `first` and then by `second`."""
    return tuple(first[axis] for axis in second)


def inverse(perm: Perm) -> Perm:
    return tuple(int(axis) for axis in np.argsort(perm))


def is_identity(perm: Perm) -> bool:
    return perm == tuple(range(len(perm)))


def step_through(node: Node, index: int, perm: Perm, context: PassContext) -> Step | None:
    """Return how `node`, whose input `index` is transposed by `perm`, runs on the original input; None if it cannot."""
    if node.domain or len(node.outputs) != 1:
        return None
    facts = facts_of(node.op)
    if not _keeps_bits(facts.placement, node.output.dtype):
        return None
    match facts.kind:
        case Kind.COPY | Kind.UNARY:
            return Step(node, (None, *node.inputs[1:]), perm) if index == 0 else None
        case Kind.BROADCAST:
            return _elementwise(node, index, perm, context)
        case Kind.SAME_SHAPE:
            return Step(node, (None,), perm, {"axis": perm[node.attr("axis", -1)]})  # a softmax
        case Kind.REDUCE:
            return _reduction(node, perm, context) if index == 0 else None
    return _concat(node, perm) if node.op == "Concat" else None


def _keeps_bits(placement: Placement, dtype: DType | None) -> bool:
    """Return whether the elements of a result of this type have the same bits wherever they are."""
    match placement:
        case Placement.ANY:
            return True
        case Placement.HALF_AND_SINGLE:
            return dtype in _SINGLE
        case Placement.INTEGER:
            return dtype is not None and dtype.is_integer
    return False


def _elementwise(node: Node, index: int, perm: Perm, context: PassContext) -> Step | None:
    inputs: list[Value | np.ndarray | None] = []
    joins = 0
    for position, value in enumerate(node.inputs):
        if value is None:
            return None
        if position == index:
            inputs.append(None)
            continue
        other = producer_of(value, "Transpose")
        if other is not None and perm_of(other) == perm:
            joins += value.sole_user is node
            inputs.append(other.input(0))
            continue
        moved = _untransposed(value, perm, context)
        if moved is None:
            return None
        inputs.append(moved)
    return Step(node, tuple(inputs), perm, joins=joins)


def _untransposed(value: Value, perm: Perm, context: PassContext) -> Value | np.ndarray | None:
    """Return an operand that broadcasts against the data before the transpose as `value` does after it."""
    shape, rank = value.shape, len(perm)
    if shape is None or len(shape) > rank:
        return None
    if all(dim == 1 for dim in shape):
        return value
    tensor = value.constant
    if tensor is None or (len(value.uses) > 1 and tensor.nbytes > _SMALL_BYTES):
        return None
    array = context.array(value)
    if array is None:
        return None
    full = array.reshape((1,) * (rank - array.ndim) + array.shape)
    return np.ascontiguousarray(full.transpose(inverse(perm)))


def _concat(node: Node, perm: Perm) -> Step | None:
    producers = [producer_of(value, "Transpose") for value in node.inputs]
    if len(producers) < 2 or any(perm_of(producer) != perm for producer in producers):
        return None
    sources = tuple(None if producer is None else producer.input(0) for producer in producers)
    if None in sources or not all(value is not None and value.sole_user is node for value in node.inputs):
        return None
    return Step(node, sources, perm, {"axis": perm[node.attr("axis", 0)]}, joins=len(producers) - 1)


def _reduction(node: Node, perm: Perm, context: PassContext) -> Step | None:
    axes = constant_ints(node.input(1), context)
    if not axes:
        return None
    after = normalized_axes(axes, len(perm))
    before = tuple(sorted(perm[axis] for axis in after))
    result = perm
    if not node.attr("keepdims", 1):
        left = [axis for axis in range(len(perm)) if axis not in before]
        result = tuple(left.index(perm[axis]) for axis in range(len(perm)) if axis not in after)
    return Step(node, (None, np.array(before, np.int64)), result)


def regrouped(source: Shape | None, matrix: Shape | None, perm: Perm) -> Perm | None:
    """Return the permutation of the axes of `source` that is equivalent to permuting those of `matrix`.

    `matrix` is `source` reshaped: the same dimensions, except that some adjacent ones are merged.
    """
    if source is None or matrix is None or len(matrix) != len(perm) or len(source) < len(matrix):
        return None
    left = 0
    while left < len(matrix) - 1 and source[left] is not None and source[left] == matrix[left]:
        left += 1
    right = len(matrix) - left - 1
    if right and (None in matrix[-right:] or source[-right:] != matrix[-right:]):
        return None
    merged = len(source) - left - right
    groups: list[Perm] = [(axis,) for axis in range(left)]
    groups.append(tuple(range(left, left + merged)))
    groups += [(axis,) for axis in range(left + merged, len(source))]
    return tuple(axis for group in perm for axis in groups[group])


def moved_ones(source: Shape | None, result: Shape | None) -> Perm | None:
    """Return the permutation equivalent to reshaping `source` to `result`, if that only moves axes of size 1."""
    if source is None or result is None or len(source) != len(result):
        return None
    ones = iter([axis for axis, dim in enumerate(source) if dim == 1])
    others = iter([axis for axis, dim in enumerate(source) if dim != 1])
    perm = tuple(next(ones if dim == 1 else others, -1) for dim in result)
    if -1 in perm or not same_shape(tuple(source[axis] for axis in perm), result):
        return None
    return perm


def as_reshape(node: Node, perm: Perm) -> tuple[int, ...] | None:
    """Return the target of the Reshape that is equivalent to this Transpose, if it moves only dimensions of size 1."""
    value = node.input(0)
    if value is None or value.shape is None or not is_static(value.shape) or len(value.shape) != len(perm):
        return None
    moved: Sequence[int] = [axis for axis in perm if value.shape[axis] != 1]
    target = tuple(dim for dim in (value.shape[axis] for axis in perm) if isinstance(dim, int))
    return target if list(moved) == sorted(moved) and 0 not in target else None
