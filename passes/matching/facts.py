"""Small queries about nodes and values that several passes use."""

from __future__ import annotations

from graphopt.ir import Node, Shape, Tensor, Value
from graphopt.ir.facts import Trait, facts_of
from graphopt.rewriting.passes import Miss, PassContext

OLD_OPSET = Miss("opset below 18")
"""The opset since which axes, pads and ratios are inputs; before, a pass would have to read attributes."""

SMALL = 4096
"""The number of elements up to which a constant is read: more than any shape or per-channel vector has."""


def is_random(node: Node, context: PassContext) -> bool:
    """Return whether a node of ONNX's own domain may return different results for the same inputs."""
    traits = facts_of(node.op).traits
    if Trait.RANDOM_IN_TRAINING in traits:
        return not is_inference_dropout(node, context)
    return Trait.RANDOM in traits


def is_inference_dropout(node: Node, context: PassContext) -> bool:
    """Return whether a Dropout passes its input through: `training_mode` is omitted or constantly false."""
    mode = node.input(2)
    if mode is None:
        return True
    array = context.array(mode, 1)
    return array is not None and not array.any()


def producer_of(value: Value | None, *op_types: str) -> Node | None:
    """Return the node of ONNX's own domain that has `value` as its first output, if it is one of `op_types`."""
    node = None if value is None else value.producer
    if node is None or node.domain or node.op_type not in op_types or node.output is not value:
        return None
    return node


def constant_ints(value: Value | None, context: PassContext) -> tuple[int, ...] | None:
    """The contents of a short constant list of integers (axes, pads, a shape); None if it is not one."""
    if value is None:
        return None
    array = context.array(value, SMALL)
    if array is None or array.dtype.kind not in "iu" or array.ndim > 1:
        return None
    return tuple(int(item) for item in array.reshape(-1))


def same_shape(left: Shape | None, right: Shape | None) -> bool:
    """Return whether two shapes are provably equal at run time: equal sizes, or the same symbol."""
    return left is not None and left == right and None not in left


def is_static(shape: Shape | None) -> bool:
    """Return whether every dimension is a number."""
    return shape is not None and all(isinstance(dim, int) for dim in shape)


def keeps_shape(shape: Shape | None, constant: Tensor) -> bool:
    """Return whether broadcasting a value of `shape` with `constant` gives `shape` again for all its symbols."""
    if constant.shape == ():
        return True
    if shape is None or len(constant.shape) > len(shape):
        return False
    aligned = shape[len(shape) - len(constant.shape) :]
    return all(size == 1 or size == dim for size, dim in zip(constant.shape, aligned, strict=True))


def normalized_axes(axes: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Axes counted from the front, in the order given."""
    return tuple(axis + rank if axis < 0 else axis for axis in axes)
