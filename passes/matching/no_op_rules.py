"""Rules for each operator that can be a no-op: which value its result equals, bit for bit, or why it does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from graphopt.ir import Node, Shape, Value
from graphopt.ir.facts import Kind, Trait, operators
from graphopt.passes.matching.facts import (
    SMALL,
    constant_ints,
    is_inference_dropout,
    keeps_shape,
    producer_of,
    same_shape,
)
from graphopt.rewriting.passes import Miss, PassContext

Rule = Callable[[Node, PassContext], Value | Miss]
NOTHING = Miss("")
_TO_THE_END = 2**31 - 1  # ONNX's convention for a slice that extends to the end


def _data(node: Node) -> Value | Miss:
    value = node.input(0)
    return NOTHING if value is None else value


def _always(node: Node, context: PassContext) -> Value | Miss:
    return _data(node)


def _single_input(node: Node, context: PassContext) -> Value | Miss:
    return _data(node) if len(node.inputs) == 1 else NOTHING


def _dropout(node: Node, context: PassContext) -> Value | Miss:
    if not is_inference_dropout(node, context):
        return Miss("the dropout is in training mode")
    if len(node.outputs) > 1 and node.outputs[1].has_uses:
        return Miss("the mask of the dropout is used")
    return _data(node)


def _cast(node: Node, context: PassContext) -> Value | Miss:
    value = node.input(0)
    return value if value is not None and value.dtype == node.attr("to") else NOTHING


def _cast_like(node: Node, context: PassContext) -> Value | Miss:
    value, like = node.input(0), node.input(1)
    same = value is not None and like is not None and value.dtype is not None and value.dtype is like.dtype
    return value if same and value is not None else NOTHING


def _transpose(node: Node, context: PassContext) -> Value | Miss:
    perm = node.attr("perm")
    if perm is None:
        value = node.input(0)
        return value if value is not None and value.rank is not None and value.rank <= 1 else NOTHING
    return _data(node) if perm == tuple(range(len(perm))) else NOTHING


def _same_elements(left: Shape | None, right: Shape | None) -> bool:
    """Return whether two shapes with equally many elements are equal: one unknown dimension follows from the others."""
    if left is None or right is None or len(left) != len(right):
        return False
    different = [(a, b) for a, b in zip(left, right, strict=True) if a is None or a != b]
    if not different:
        return True
    others = [a for a, b in zip(left, right, strict=True) if a is not None and a == b]
    return len(different) == 1 and all(isinstance(dim, int) and dim > 0 for dim in others)


def _reshape(node: Node, context: PassContext) -> Value | Miss:
    value = node.input(0)
    if value is None or not _same_elements(value.shape, node.output.shape):
        return NOTHING
    return value


def _squeeze(node: Node, context: PassContext) -> Value | Miss:
    value = node.input(0)
    if value is None or node.input(1) is not None or value.shape is None:
        return NOTHING
    kept = all(isinstance(dim, int) and dim != 1 for dim in value.shape)
    return value if kept else NOTHING


def _unsqueeze(node: Node, context: PassContext) -> Value | Miss:
    return _data(node) if constant_ints(node.input(1), context) == () else NOTHING


def _flatten(node: Node, context: PassContext) -> Value | Miss:
    value = node.input(0)
    if value is None or value.rank != 2:
        return NOTHING
    return value if node.attr("axis", 1) in (1, -1) else NOTHING


def _expand(node: Node, context: PassContext) -> Value | Miss:
    value = node.input(0)
    if value is None:
        return NOTHING
    if same_shape(value.shape, node.output.shape):
        return value
    shape = constant_ints(node.input(1), context)
    ones = shape is not None and all(dim == 1 for dim in shape)
    return value if ones and shape is not None and len(shape) <= (value.rank or 0) else NOTHING


def _tile(node: Node, context: PassContext) -> Value | Miss:
    repeats = constant_ints(node.input(1), context)
    return _data(node) if repeats is not None and all(count == 1 for count in repeats) else NOTHING


def _pad(node: Node, context: PassContext) -> Value | Miss:
    pads = constant_ints(node.input(1), context)
    return _data(node) if pads is not None and not any(pads) else NOTHING


def _slice(node: Node, context: PassContext) -> Value | Miss:
    value = node.input(0)
    starts, ends = (constant_ints(node.input(i), context) for i in (1, 2))
    if value is None or starts is None or ends is None:
        return NOTHING
    axes = constant_ints(node.input(3), context) if node.input(3) is not None else tuple(range(len(starts)))
    steps = constant_ints(node.input(4), context) if node.input(4) is not None else (1,) * len(starts)
    if axes is None or steps is None:
        return NOTHING
    for axis, start, end, step in zip(axes, starts, ends, steps):
        dim = None if value.shape is None else value.shape[axis]
        size = dim if isinstance(dim, int) else math.inf
        if step != 1 or (start != 0 and start > -size) or (end < size and end < _TO_THE_END):
            return NOTHING
    return value


def _split(node: Node, context: PassContext) -> Value | Miss:
    return _data(node) if len(node.outputs) == 1 else NOTHING


def _reduce(node: Node, context: PassContext) -> Value | Miss:
    no_axes = node.input(1) is None or constant_ints(node.input(1), context) == ()
    return _data(node) if no_axes and node.attr("noop_with_empty_axes", 0) else NOTHING


def _resize(node: Node, context: PassContext) -> Value | Miss:
    scales = node.input(2)
    array = None if scales is None else context.array(scales, SMALL)
    if array is None or array.size == 0 or not np.all(array == 1):
        return NOTHING
    if node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return Miss("the resize crops")
    return _data(node)


def _where(node: Node, context: PassContext) -> Value | Miss:
    condition = node.input(0)
    array = None if condition is None else context.array(condition, SMALL)
    if array is None or array.size == 0 or not (array.all() or not array.any()):
        return NOTHING
    chosen = node.input(1 if array.all() else 2)
    if chosen is None:
        return NOTHING
    if not same_shape(chosen.shape, node.output.shape):
        return Miss("the chosen branch of Where may be broadcast")
    return chosen


def _neutral(element: Callable[[np.ndarray], bool], sides: tuple[int, ...], reason: str = "") -> Rule:
    """Return a rule for x op c = x: `c` is one of the inputs `sides` and all its elements are neutral."""

    def rule(node: Node, context: PassContext) -> Value | Miss:
        for side in sides:
            operand, value = node.input(side), node.input(1 - side)
            tensor = None if operand is None else operand.constant
            if operand is None or value is None or tensor is None or tensor.size == 0:
                continue
            array = context.array(operand, SMALL)
            if array is None or array.dtype.kind in "OSU":
                continue
            if not element(array):
                signless = reason and tensor.dtype.is_float and not np.any(array)
                return Miss(reason) if signless else NOTHING
            if not keeps_shape(value.shape, tensor):
                return Miss("the neutral constant may broadcast the other operand")
            return value
        return NOTHING

    return rule


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind not in "biu"  # kind V: the float types of ml_dtypes


def _ones(array: np.ndarray) -> bool:
    return bool(np.all(array == 1))


def _added_zeros(array: np.ndarray) -> bool:
    """Accept x + (-0.0), which is x; x + 0.0 is not if x is -0.0."""
    zeros = not np.any(array)
    return zeros and (not _is_float(array) or bool(np.all(np.signbit(array.astype(np.float64)))))


def _subtracted_zeros(array: np.ndarray) -> bool:
    zeros = not np.any(array)
    return zeros and (not _is_float(array) or not np.any(np.signbit(array.astype(np.float64))))


def _all_true(array: np.ndarray) -> bool:
    return bool(array.all())


def _all_false(array: np.ndarray) -> bool:
    return not array.any()


def _undone(node: Node, context: PassContext) -> Value | Miss:
    """-(-x), not not x."""
    inner = producer_of(node.input(0), node.op_type)
    return NOTHING if inner is None else _data(inner)


def _repeated(node: Node, context: PassContext) -> Value | Miss:
    """op(op(x)) = op(x)."""
    inner = producer_of(node.input(0), node.op_type)
    return NOTHING if inner is None else inner.output


def _clip(node: Node, context: PassContext) -> Value | Miss:
    """Match a Clip after one whose bounds are at least as narrow."""
    inner = producer_of(node.input(0), "Clip")
    if inner is None:
        return NOTHING
    narrow = [_bound(inner.input(i), context) for i in (1, 2)]
    wide = [_bound(node.input(i), context) for i in (1, 2)]
    if not _is_within(narrow[0], wide[0], np.less_equal) or not _is_within(narrow[1], wide[1], np.greater_equal):
        return NOTHING
    return inner.output


def _bound(value: Value | None, context: PassContext) -> np.ndarray | Miss | None:
    """Return a bound of a Clip: None if it is omitted, a Miss if it is not known."""
    if value is None:
        return None
    array = context.array(value, 1)
    return NOTHING if array is None or array.size != 1 else array.reshape(())


def _is_within(
    narrow: np.ndarray | Miss | None, wide: np.ndarray | Miss | None, compare: Callable[..., np.bool]
) -> bool:
    """Return whether bound `narrow` implies bound `wide`. Zeros need equal signs: a Clip may swap 0.0 and -0.0."""
    if isinstance(narrow, Miss) or isinstance(wide, Miss):
        return False
    if wide is None:
        # The largest number of the type, which only infinity exceeds.
        return narrow is None or bool(np.isfinite(narrow))
    return narrow is not None and bool(compare(wide, narrow)) and (wide != 0 or wide.tobytes() == narrow.tobytes())


_SIGN = "adding a zero of the wrong sign changes -0.0"
RULES: Mapping[str, Rule] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _flatten,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Resize": _resize,
    "Where": _where,
    "Clip": _clip,
    "Add": _neutral(_added_zeros, (1, 0), _SIGN),
    "Sub": _neutral(_subtracted_zeros, (1,), _SIGN),
    "Mul": _neutral(_ones, (1, 0)),
    "Div": _neutral(_ones, (1,)),
    "Pow": _neutral(_ones, (1,)),
    "And": _neutral(_all_true, (1, 0)),
    "Or": _neutral(_all_false, (1, 0)),
    "Xor": _neutral(_all_false, (1, 0)),
    **dict.fromkeys(operators(traits=Trait.TRIVIAL | Trait.VARIADIC), _single_input),
    **dict.fromkeys(operators(Kind.REDUCE, traits=Trait.TRIVIAL), _reduce),
    **dict.fromkeys(operators(traits=Trait.INVOLUTION), _undone),
    **dict.fromkeys(operators(traits=Trait.IDEMPOTENT), _repeated),
}
