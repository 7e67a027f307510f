"""Common parts of layer norm and RMS norm: means, inverse roots, scales and biases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from graphopt.ir import DType, Node, TensorType, Value
from graphopt.passes.matching.match import operands, produced_by
from graphopt.passes.matching.means import Nodes
from graphopt.rewriting.passes import Miss, PassContext, Rewriter
from graphopt.rewriting.values import ESCAPES, escapes, fits_beside, number, number_beside


@dataclass(frozen=True)
class Inverse:
    """`1 / sqrt(variance + epsilon)`: multiply by `value`, or divide by it if `divides`."""

    value: Value
    divides: bool
    variance: Value
    epsilon: float
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Norm:
    """A recognized normalization of the last axes of `data`, from the first normalized `axis` (negative)."""

    root: Node
    data: Value
    axis: int
    epsilon: float
    nodes: tuple[Node, ...]
    scale: Value | None = None
    bias: Value | None = None

    def extended(self, root: Node, **changes: Value) -> Norm:
        """The same with one more node after it."""
        return replace(self, root=root, nodes=(*self.nodes, root), **changes)  # type: ignore[arg-type]


def inverse_root(node: Node) -> Inverse | None:
    """Return the inverse root that a `Sqrt`, or a `Pow` with 0.5 or -0.5, is part of; None if it is not one."""
    radicand = node.inputs[0]
    assert radicand is not None
    power = 0.5 if node.op == "Sqrt" else number(node.input(1))
    add = produced_by(radicand, "Add")
    if power not in (0.5, -0.5) or add is None:
        return None
    for variance, epsilon in operands(add):
        amount = number_beside(epsilon, variance)
        if amount is not None and amount >= 0:
            break
    else:
        return None
    nodes: tuple[Node, ...] = (add, node)
    user = node.output.sole_user
    if power < 0 or user is None:
        return Inverse(node.output, power > 0, variance, amount, nodes)
    if user.op == "Reciprocal" or (user.op == "Div" and user.inputs[1] is node.output and _is_one(user)):
        return Inverse(user.output, False, variance, amount, (*nodes, user))
    return Inverse(node.output, True, variance, amount, nodes)


def _is_one(div: Node) -> bool:
    first, second = div.inputs[:2]
    return first is not None and second is not None and number_beside(first, second) == 1


def normalized(
    inverse: Inverse, data: Value, axis: int, nodes: tuple[Node, ...], dividend: Callable[[Value], Nodes | None]
) -> Norm | Miss:
    """Return the product of the data and the inverse root, with the scale already between them or not.

    `dividend` returns the nodes that turn the data into the value to normalize (the data minus its mean), or None if
    the value is something else. `nodes` are those of the variance.
    """
    user = inverse.value.sole_user
    if user is None:
        return Miss(ESCAPES)
    nodes = (*nodes, *inverse.nodes, user)
    if inverse.divides:
        first, second = user.inputs[:2] if user.op == "Div" else (None, None)
        made = dividend(first) if first is not None and second is inverse.value else None
        if made is None:
            return Miss("the root does not divide what it was computed from")
        return Norm(user, data, axis, inverse.epsilon, (*nodes, *made))
    if user.op != "Mul":
        return Miss("the inverse root does not multiply what it was computed from")
    other = next(b for a, b in operands(user) if a is inverse.value)
    made = dividend(other)
    if made is not None:
        return Norm(user, data, axis, inverse.epsilon, (*nodes, *made))
    # (1/root * scale) * data: the scale comes first.
    outer = user.output.sole_user
    if outer is not None and outer.op == "Mul" and fits_scale(other, data, axis):
        made = dividend(next(b for a, b in operands(outer) if a is user.output))
    if made is None or outer is None:
        return Miss("the inverse root does not multiply what it was computed from")
    return Norm(outer, data, axis, inverse.epsilon, (*nodes, outer, *made), scale=other)


def with_scale_and_bias(norm: Norm, has_bias: bool) -> Norm:
    """Extend the normalization by the Cast, Mul and Add after it, as far as they are its own scale and bias."""
    norm = _with_cast(norm)
    if norm.scale is None:
        norm = _with_operand(norm, "Mul", "scale")
    if has_bias:
        norm = _with_operand(norm, "Add", "bias")
    return norm


def _with_cast(norm: Norm) -> Norm:
    """Extend to half-precision data normalized in float32, which the operator does itself, between the two casts."""
    before, after = produced_by(norm.data, "Cast"), norm.root.output.sole_user
    if before is None or after is None or after.op != "Cast" or norm.scale is not None:
        return norm
    source = before.inputs[0]
    if source is None or source.dtype not in (DType.FLOAT16, DType.BFLOAT16) or norm.data.dtype is not DType.FLOAT:
        return norm
    if after.attr("to") != int(source.dtype):
        return norm
    # The first Cast may have other users: it then stays.
    return replace(norm.extended(after), data=source)


def _with_operand(norm: Norm, op: str, name: str) -> Norm:
    user = norm.root.output.sole_user
    if user is None or user.op != op:
        return norm
    operand = next(b for a, b in operands(user) if a is norm.root.output)
    return norm.extended(user, **{name: operand}) if fits_scale(operand, norm.data, norm.axis) else norm


def fits_scale(value: Value, data: Value, axis: int) -> bool:
    """Return whether `value` can be a scale or bias of the normalized axes: of their shape, or a matching constant."""
    sizes = normalized_shape(data, axis)
    if sizes is None or (value.dtype is not data.dtype and value.dtype is not None):
        return False
    tensor = value.constant
    if tensor is None:
        return value.shape is not None and value.shape == sizes
    if tensor.size == 1:
        return fits_beside(value, data)
    leading = len(tensor.shape) - len(sizes)
    if data.rank is not None and len(tensor.shape) > data.rank:
        return False
    shape = tensor.shape[leading:] if leading > 0 else (1,) * -leading + tensor.shape
    return all(dim == 1 for dim in tensor.shape[: max(leading, 0)]) and all(
        dim in (1, size) for dim, size in zip(shape, sizes)
    )


def normalized_shape(data: Value, axis: int) -> tuple[int, ...] | None:
    """The sizes of the normalized axes, or None if they are not numbers."""
    if data.shape is None or len(data.shape) < -axis:
        return None
    sizes = data.shape[axis:]
    return tuple(d for d in sizes if isinstance(d, int)) if all(isinstance(d, int) for d in sizes) else None


def check(norm: Norm, context: PassContext) -> Norm | Miss:
    """Return a miss if the operator would not compute the same as the nodes."""
    if norm.data.dtype not in (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16):
        return Miss("only float32, float16 and bfloat16 are normalized in at least their own precision")
    if normalized_shape(norm.data, norm.axis) is None:
        return Miss("the sizes of the normalized axes are not known")
    cast = norm.data.producer
    nodes = [node for node in norm.nodes if node is not cast]
    return Miss(ESCAPES) if escapes(nodes, norm.root) else norm


def replace_norm(norm: Norm, op: str, rewriter: Rewriter) -> None:
    """Replace the nodes by the operator `op`, with a scale of ones if there is none."""
    sizes, dtype = normalized_shape(norm.data, norm.axis), norm.data.dtype
    assert sizes is not None
    assert dtype is not None
    scale = _parameter(norm.scale, sizes, 1.0, dtype, rewriter)
    inputs = [norm.data, scale]
    if norm.bias is not None:
        inputs.append(_parameter(norm.bias, sizes, 0.0, dtype, rewriter))
    shape = norm.root.output.shape or norm.data.shape
    new = rewriter.op(
        op,
        inputs,
        {"axis": norm.axis, "epsilon": norm.epsilon},
        types=[TensorType(dtype, shape)],
        origin=norm.nodes,
        before=norm.root,
    )
    rewriter.replace(norm.root, [new.output])


def _parameter(value: Value | None, sizes: tuple[int, ...], default: float, dtype: DType, rewriter: Rewriter) -> Value:
    """Return a scale or bias in the full shape of the normalized axes, the only form that all runtimes accept."""
    if value is None:
        return rewriter.constant(np.full(sizes, default, dtype.numpy), "scale")
    tensor = value.constant
    if tensor is None or tensor.shape == sizes:
        return value
    array = tensor.numpy()
    array = array.reshape(array.shape[max(array.ndim - len(sizes), 0) :])
    return rewriter.constant(np.ascontiguousarray(np.broadcast_to(array, sizes)), value.name)
