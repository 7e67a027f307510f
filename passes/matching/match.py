"""What the fusion passes share: reading constants, walking patterns, and guarding what must not change."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import numpy as np

from graphopt.ir import Dim, DType, Node, Shape, Value
from graphopt.rewriting.passes import Miss, PassContext

NOTHING = Miss("")
"""The node has nothing to do with the pattern: not worth a line in the report."""

ESCAPES = "an intermediate result is used elsewhere or is an output"


def below_opset(context: PassContext, needed: int = 18) -> Miss | None:
    """A miss if the model's opset is older than `needed`, where the operators mean or look something else."""
    opset = context.model.opset
    return Miss(f"opset below {needed}") if opset < needed else None


def produced_by(value: Value | None, *ops: str) -> Node | None:
    """The producer of `value` if it is one of the operators `ops`."""
    node = None if value is None else value.producer
    return node if node is not None and node.op in ops else None


def other_input(node: Node, value: Value) -> Value | None:
    """The other operand of a binary node, or None if both operands are `value`."""
    first, second = node.inputs[:2]
    if first is second:
        return None
    return second if first is value else first


def operands(node: Node) -> Iterator[tuple[Value, Value]]:
    """The two operands of a commutative binary node in both orders."""
    first, second = node.inputs[:2]
    assert first is not None
    assert second is not None
    yield first, second
    if first is not second:
        yield second, first


def constant_shape(value: Value | None) -> tuple[int, ...] | None:
    """The shape of a constant; None if the value is not constant. Nothing is read."""
    tensor = None if value is None else value.constant
    return None if tensor is None else tensor.shape


def numbers(value: Value | None) -> np.ndarray | None:
    """A float constant as float64, in which folding is done; None if it is not a constant of floats."""
    tensor = None if value is None else value.constant
    if tensor is None or not tensor.dtype.is_float:
        return None
    return tensor.numpy().astype(np.float64)


def integers(value: Value | None) -> tuple[int, ...] | None:
    """The elements of a constant of integers (axes, pads, a permutation); None if it is not one."""
    tensor = None if value is None else value.constant
    if tensor is None or not tensor.dtype.is_integer:
        return None
    return tuple(int(i) for i in tensor.numpy().reshape(-1))


def number(value: Value | None) -> float | None:
    """The number in a constant of one element, whatever its rank; None if it is not such a constant."""
    tensor = None if value is None else value.constant
    if tensor is None or tensor.size != 1 or not (tensor.dtype.is_float or tensor.dtype.is_integer):
        return None
    return float(tensor.numpy().reshape(-1)[0])


def fits_beside(value: Value, other: Value) -> bool:
    """Whether a one-element constant `value`, combined with `other`, leaves the shape of `other` as it is."""
    shape = constant_shape(value)
    if shape is None:
        return False
    return not shape or (other.rank is not None and len(shape) <= other.rank)


def number_beside(value: Value, other: Value) -> float | None:
    """The number in the one-element constant `value` if combining it with `other` keeps the shape of `other`."""
    return number(value) if fits_beside(value, other) else None


def close(number_: float | None, target: float, dtype: DType | None) -> bool:
    """Whether a constant is `target` as far as its own float type can say it."""
    if number_ is None or not math.isfinite(number_):
        return False
    return abs(number_ - target) <= tolerance(dtype) * max(abs(target), 1e-30)


def tolerance(dtype: DType | None) -> float:
    """How far a constant of this float type may be from what it means, relatively.

    A few units in the last place: exporters write float32 constants with 7 or 8 digits.
    """
    return {DType.FLOAT16: 2.0**-9, DType.BFLOAT16: 2.0**-7, DType.DOUBLE: 1e-14}.get(dtype or DType.FLOAT, 1e-6)


def rounded(exact: np.ndarray, dtype: DType) -> np.ndarray | None:
    """A float64 result in the float type `dtype`, or None if that type cannot hold it.

    None for overflow, for NaN or infinity in the result, and where a tensor's largest element would be lost to
    underflow: the rewrite would then change more than rounding.
    """
    if not np.isfinite(exact).all():
        return None
    with np.errstate(over="ignore", under="ignore"):
        result = exact.astype(dtype.numpy)
    back = result.astype(np.float64)
    if not np.isfinite(back).all():
        return None
    largest = float(np.abs(exact).max(initial=0.0))
    if float(np.abs(back - exact).max(initial=0.0)) > 2 * tolerance(dtype) * largest:
        return None
    return result


def escapes(nodes: Collection[Node], root: Node) -> bool:
    """Whether a result of `nodes`, other than the root's, is used by anything but `nodes`.

    Fusing such a pattern would compute the shared part twice, and a result that the user asked for (a graph
    output, a capture by a nested graph) has to stay.
    """
    inside = set(nodes)
    for node in inside:
        if node is root:
            continue
        if node.graph is not root.graph:
            return True
        for output in node.outputs:
            if output.is_graph_output or any(use.node not in inside for use in output.uses):
                return True
    return False


def same_dim(first: Dim, second: Dim) -> bool:
    """Whether two dimensions are known to be equal: the same size, or the same symbol."""
    return first is not None and first == second


def same_shape(first: Shape | None, second: Shape | None) -> bool:
    """Whether two shapes are known to be equal."""
    if first is None or second is None or len(first) != len(second):
        return False
    return all(same_dim(a, b) for a, b in zip(first, second))


def broadcasts_into(shape: Shape | None, target: Shape | None) -> bool:
    """Whether `shape` is known to broadcast to `target` without changing it (unidirectionally)."""
    if shape is None or target is None or len(shape) > len(target):
        return False
    aligned = target[len(target) - len(shape) :]
    return all(dim == 1 or same_dim(dim, wanted) for dim, wanted in zip(shape, aligned))


def axis_of(axis: int, rank: int | None) -> int | None:
    """A non-negative axis, or None if it is negative and the rank is unknown."""
    if axis >= 0:
        return axis
    return None if rank is None else axis + rank


def swaps_last_two(perm: tuple[int, ...] | None) -> bool:
    """Whether a permutation swaps the last two axes and leaves the others alone."""
    if perm is None or len(perm) < 2:
        return False
    rank = len(perm)
    return perm == (*range(rank - 2), rank - 1, rank - 2)


def permutation(node: Node) -> tuple[int, ...] | None:
    """The permutation of a `Transpose`, the default one (all axes reversed) spelled out if the rank is known."""
    perm = node.attr("perm")
    if perm is not None:
        return tuple(perm)
    source = node.input(0)
    return None if source is None or source.rank is None else tuple(reversed(range(source.rank)))
